"""Supports and test images come from activations: the same fits, and no image is read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sdmad.backbones.config import PHANTOM
from sdmad.baselines import READ_BLOCKS, BaselineConfig
from sdmad.commands.compare import compare
from sdmad.commands.encode import encode
from sdmad.commands.train import train
from sdmad.comparison import run as comparing
from sdmad.comparison.cell import Bench, TestImages
from sdmad.detector import Detector, load_fits
from sdmad.errors import UserError
from sdmad.fitting import run as fitting
from sdmad.fitting.config import TrainConfig, load_config
from sdmad.fitting.run import train_seeds
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.method.augment import AugmentConfig, SupportImages
from sdmad.method.learner import fit_batch
from sdmad.runtime.cluster import Resources
from sdmad.scoring import actor, tables
from sdmad.scoring import run as scoring_run
from sdmad.scoring.chosen import EncodedArchive
from sdmad.storage.run_record import read_record
from tests.conftest import QUICK
from tests.helpers import run_command, support_images
from tests.scoring.helpers import Encoded, in_process
from tests.scoring.test_encode import refused

ONE_VIEW = QUICK.model_copy(update={"augment": AugmentConfig(views=1)})


@pytest.fixture(scope="module")
def activations(archive, tmp_path_factory) -> Iterator[str]:
    """The activations of the archive of phantoms."""
    output = tmp_path_factory.mktemp("encoded") / "activations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring_run, "stream_rows", in_process)
        patch.setattr(scoring_run, "connect", lambda: Resources(1, 0, fixed=True))
        patch.setattr(actor, "node_cpus", lambda: 1)
        places = ("--archive", archive, "--output", output, "--backbone", PHANTOM)
        assert run_command(encode, *places).returncode == 0
        yield str(output)


@pytest.fixture(scope="module")
def table(archive, catalog) -> LabelTable:
    return load_labels(str(archive / "labels.csv"), catalog.category_names)


def names_of(table: LabelTable, split: str) -> list[tuple[str, str]]:
    some = table.where(table.split == split)
    return list(zip(some.archive.tolist(), some.member.tolist(), strict=True))


@pytest.fixture(scope="module")
def both(archive, activations, table, backbone) -> tuple[list[SupportImages], list[SupportImages]]:
    """Supports of two seeds, from images and from activations."""
    refs = [SupportRef.draw(table, 2, seed) for seed in (1, 2)]
    wanted = {image for ref in refs for image in ref.images}
    chosen = EncodedArchive.open(activations).find(names_of(table, "pool"), wanted).chosen
    assert len(chosen.rows) == len(wanted)
    assert {len(values) for values in chosen.columns.values()} == {len(wanted)}
    return (
        [support_images(str(archive), ref, backbone.spec) for ref in refs],
        [ref.with_activations(chosen, backbone) for ref in refs],
    )


@pytest.fixture(scope="module")
def tests_of_both(archive, activations, table, backbone) -> tuple[TestImages, TestImages]:
    """Test images by their pixels and by their activations, more than fit one batch."""
    names = names_of(table, "test")[:70]
    pixels = support_images(str(archive), SupportRef(1, 0, names, np.zeros(0), 1), backbone.spec)
    chosen = EncodedArchive.open(activations).find(names, names).chosen
    truth = np.zeros((len(names), 6), bool)
    none = np.zeros((len(names), 0, 0, 3), np.uint8)
    encoded = chosen.restore(names, backbone.image, backbone.device)
    return TestImages(pixels.pixels, truth), TestImages(none, truth, encoded)


def test_fits_from_activations_are_those_from_images(
    both, tests_of_both, backbone, catalog
) -> None:
    """As exactly as float16 has it, where rounding does not swap two images by which the AUC of a
    sign is counted."""
    pixels = backbone.pixels(tests_of_both[0].pixels)
    scores, rules = [], []
    for supports in both:
        model, rule = fit_batch(backbone, catalog, supports, ONE_VIEW)
        rules.append(rule)
        with torch.no_grad():
            read = model.read(*model.image_activations(pixels), model.sign_embeddings())
            scores.append(torch.sigmoid(rule.evidence(model, read, ONE_VIEW).logits))
    assert torch.equal(rules[0].support_auc, rules[1].support_auc), "choose other seeds"
    assert 0 < (scores[0] - scores[1]).abs().max() < 1e-3


def test_methods_score_from_activations_as_from_images(
    both, tests_of_both, backbone, catalog
) -> None:
    """But for those that read earlier blocks of the tower, which a comparison refuses."""
    budget = BaselineConfig(steps=2, augment=ONE_VIEW.augment)
    benches = [Bench(backbone, catalog, ONE_VIEW, budget, test) for test in tests_of_both]
    for method in ("sd_mad", "zero_shot_signs", "lp_plus_plus", "tip_adapter_f", *READ_BLOCKS):
        if method in READ_BLOCKS:
            with pytest.raises(RuntimeError, match="size"):
                benches[1].score(method, None, both[1][0])
            continue
        right, found = (
            bench.score(method, None, supports[0])
            for bench, supports in zip(benches, both, strict=True)
        )
        assert np.allclose(found.scores, right.scores, atol=1e-3), method
        assert np.allclose(found.anomaly, right.anomaly, atol=1e-3), method


def test_only_the_image_itself_is_stored(both, backbone, catalog) -> None:
    with pytest.raises(ValueError, match="only the unchanged view"):
        fit_batch(backbone, catalog, both[1], QUICK)


def test_images_are_found_by_the_names_that_labels_may_use(store: Encoded) -> None:
    assert store.encode().returncode == 0
    images = EncodedArchive.open(str(store.activations))
    there = [("s0.tar", "03.png"), ("./s0.tar", "04.png"), ("", "0.png"), ("s1.tar", "x.jpg")]
    failing = [("s0.tar", "text.png"), ("", "bad.png")]
    absent = [("s0.tar", "3.png"), ("s9.tar", "03.png"), ("", "7.png")]
    names = [*there, *failing, *absent]
    found = images.find(names, [there[1], there[2]])
    assert found.absent == absent
    assert found.failed.keys() == set(failing)
    assert "unknown image format" in found.failed[failing[0]]
    assert found.chosen.rows.keys() == {there[1], there[2]}
    rows = {
        row["member"]: row
        for unit in images.units
        for row in tables.read_part(images.uri, "activations", unit.id).to_pylist()
    }
    for name, member in ((there[1], "04.png"), (there[2], "0.png")):
        stored = np.frombuffer(rows[member]["patches"], np.float16)
        assert np.array_equal(found.chosen.columns["patches"][found.chosen.rows[name]], stored)
    found.check_wanted(there)
    with pytest.raises(UserError, match=r"^3 of 9 images of split pool .*: s0.tar/3.png, .*enc"):
        found.check(names, "split pool", images.uri)
    with pytest.raises(
        UserError, match=r"image s0.tar/text.png cannot be used: unknown image format"
    ):
        found.check_wanted(names)


def configured(folder: Path, place: Path, **changes: object) -> Path:
    """A training configuration with one view of each image."""
    learner = {"augment": {"views": 1}, "steps": 2}
    content = {"archive": str(place), "labels": f"{place}/labels.csv", "catalog": "phantoms"}
    content |= {"learner": learner, "shots": [1], "seeds": "0:1"} | changes
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


REFUSED = {
    "views": ({"learner": {}}, ("8 views", "learner.augment.views to 1")),
    "blocks": (
        {"learner": {"augment": {"views": 1}, "adapter": {"image": {"blocks": 2}}}},
        ("adapts 2 blocks", "leave out `activations`"),
    ),
    "input": ({"input": {"resize": "pad"}}, ("takes its input in another way", "--config")),
    "archive": ({"archive": "elsewhere"}, ("those of the archive", "give the same archive")),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_more_than_is_stored_is_refused(
    archive, activations, tmp_path, monkeypatch, kind
) -> None:
    changes, parts = REFUSED[kind]
    changes = {"labels": f"{archive}/labels.csv"} | changes
    monkeypatch.setattr(comparing, "connect", lambda: None)
    monkeypatch.setattr(fitting, "connect", None)
    for command, methods in ((train, {}), (compare, {"methods": ["sd_mad"]})):
        config = configured(tmp_path, archive, **methods, **changes)
        options = ("--config", config, "--output", tmp_path / command.__name__)
        refused(run_command(command, *options, "--activations", activations), *parts)
    assert not list(tmp_path.glob("train/fits"))


def test_a_comparison_refuses_methods_that_need_images(archive, activations, tmp_path) -> None:
    config = configured(tmp_path, archive, activations=activations)
    ended = run_command(compare, "--config", config, "--output", tmp_path / "compare")
    refused(ended, "mvfa, aa_clip and clip_lora read earlier blocks", "leave out these methods")


@pytest.mark.cluster
def test_a_training_run_reads_no_image(
    ray_cluster, archive, activations, both, backbone, catalog, tmp_path, table
) -> None:
    """One fit on Ray, from an archive that is gone but for its labels."""
    stored = EncodedArchive.open(activations)
    gone = replace(stored, stored=replace(stored.stored, archive=str(tmp_path / "gone")))
    labels = f"{archive}/labels.csv"
    config = configured(tmp_path, tmp_path / "gone", labels=labels)
    settings = load_config(str(config), {"activations": activations}, TrainConfig)
    assert train_seeds(settings, str(tmp_path / "train"), gone) == 1
    [fit] = load_fits(str(tmp_path / "train"))
    assert fit.provenance.source == "activations"
    assert fit.provenance.support_digest == SupportRef.draw(table, 1, 0).digest
    assert read_record(str(tmp_path / "train"))["identity"]["source"] == "activations"
    assert Detector.load(str(tmp_path / "train")).seeds == [0]
