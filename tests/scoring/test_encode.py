"""An archive is encoded once, and scored from activations: exactly once, like from images."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from sdmad import storage
from sdmad.activations import Layout, Stored
from sdmad.archive.preprocess import InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.commands.encode import encode
from sdmad.commands.evaluate import evaluate
from sdmad.commands.score import score
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.fits import deserialize, load_fits
from sdmad.inputs.catalog import load_catalog
from sdmad.scoring import tables as written
from sdmad.scoring.encode import chosen_backbone
from sdmad.scoring.plan import read_plan
from sdmad.scoring.stored import check_fits
from tests.helpers import Ended, run_command, write_tar
from tests.scoring.helpers import Encoded, encoded_phantom, finished, record, tables


def by_image(table: pa.Table) -> list[dict]:
    return sorted(table.to_pylist(), key=lambda row: (row["archive"], row["member"]))


def refused(ended: Ended, *parts: str) -> None:
    assert ended.returncode == 2, ended.stdout
    *others, sentence = ended.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert "Traceback" not in "".join(others)
    for part in parts:
        assert part in sentence


def test_scores_from_activations_are_those_from_images_and_both_are_complete(store) -> None:
    ended = store.encode()
    assert ended.returncode == 0, ended.stderr
    assert "encoded 13 images in 3 work units, 2 failures" in ended.stdout
    ended = store.verify("--activations", store.activations)
    assert ended.returncode == 0, ended.stdout
    assert "15 images in the archive, 13 encoded, 2 failures" in ended.stdout
    assert store.score("--per-seed").returncode == 0
    assert store.score_images("--per-seed").returncode == 0
    assert store.verify("--scores", store.scores).returncode == 0
    found, right = (by_image(tables(str(o), "scores")) for o in (store.scores, store.images))
    assert len(found) == len(right) == 13
    for row, other in zip(found, right, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float) or name.startswith(("seeds_", "anomaly_seeds")):
                scale = 30 if name.startswith("logit") else 1  # Logits are not scores.
                assert np.allclose(row[name], value, atol=1e-3 * scale), name
            elif name in ("uri", "archive", "member", "findings", "uncertain"):
                assert row[name] == value
    failures = [by_image(tables(str(o), "failures")) for o in (store.scores, store.images)]
    assert failures[0] == failures[1]
    schemas = [
        written.read_part(str(output), "scores", unit.id).schema
        for output in (store.scores, store.images)
        for unit in read_plan(str(output))[0]
    ]
    assert len({schema.remove_metadata().to_string() for schema in schemas}) == 1
    assert schemas[0].metadata[b"sdmad.source"] == b"activations"
    run = record(store.scores)
    assert (run["job"], run["source"], run["images"]) == ("score_archive", "activations", 13)


def test_files_say_of_which_backbone_they_are(store, backbone) -> None:
    assert store.encode().returncode == 0
    for entry in storage.list_objects(f"{store.activations}/activations"):
        unit = entry.uri[-24:-8]
        metadata = written.metadata_of(
            written.read_schema(str(store.activations), unit, written.ACTIVATIONS)
        )
        stored = Stored.of(metadata, "here")
        assert stored.identity == backbone.identity
        assert stored.archive == str(store.archive)
        assert metadata["precision"] == "single"


@contextmanager
def disk_full_at(kind: str, number: int) -> Iterator[None]:
    """The file of rows with this number cannot be written; that of its failures is."""
    write, count = storage.write_bytes, 0

    def failing(uri: str, content: bytes) -> None:
        nonlocal count
        if f"/{kind}/part-" in uri:
            count += 1
            if count >= number:
                raise UserError("no space left")
        write(uri, content)

    with mock.patch.object(storage, "write_bytes", failing):
        yield


def test_both_resume_and_scoring_reads_no_image(store) -> None:
    with disk_full_at("activations", 2):
        refused(store.encode(), "no space left")
    first = finished(store.activations, "activations")
    assert len(first) == 1
    assert store.verify("--activations", store.activations).returncode == 1
    refused(store.score(), "2 of 3 work units are not encoded yet", "run the same `sdmad encode`")
    assert store.encode().returncode == 0
    after = finished(store.activations, "activations")
    assert len(after) == 3
    assert first.items() <= after.items(), "a finished unit is not encoded again"
    assert record(store.activations)["units_skipped"] == 1
    shutil.rmtree(store.archive)
    with disk_full_at("scores", 3):
        refused(store.score(), "no space left")
    first = finished(store.scores)
    assert len(first) == 2
    assert store.score().returncode == 0
    assert first.items() <= finished(store.scores).items()
    scores = tables(str(store.scores), "scores")
    names = list(zip(scores["archive"].to_pylist(), scores["member"].to_pylist(), strict=True))
    assert len(names) == len(set(names)) == 13
    again = store.score()
    assert again.returncode == 0
    assert "nothing to do: 3 work units scored before" in again.stdout


def test_what_is_added_to_or_leaves_the_archive_is_followed(store) -> None:
    assert store.encode().returncode == store.score().returncode == 0
    write_tar(store.archive / "s2.tar", {"new.png": encoded_phantom(30)})
    (store.archive / "1.png").unlink()
    assert store.encode().returncode == 0
    assert store.score().returncode == 0
    assert record(store.scores)["images"] == 1
    assert "no longer in the archive" in store.verify("--scores", store.scores).stdout
    assert store.encode("--prune").returncode == 0
    assert store.score("--prune").returncode == 0
    for kind, output in (("--activations", store.activations), ("--scores", store.scores)):
        verdict = store.verify(kind, output)
        assert verdict.returncode == 0
        assert "no longer" not in verdict.stdout
    assert tables(str(store.scores), "scores").num_rows == 13


def test_content_that_changes_is_encoded_and_scored_again(store) -> None:
    assert store.encode().returncode == store.score().returncode == 0
    write_tar(store.archive / "s1.tar", {"y.png": encoded_phantom(31), "z.png": encoded_phantom(1)})
    refused(store.encode(), "has changed since it was planned")
    assert store.encode("--accept-changes").returncode == 0
    refused(store.score(), "has changed since it was planned")
    assert store.score("--accept-changes").returncode == 0
    for kind, output in (("--activations", store.activations), ("--scores", store.scores)):
        assert store.verify(kind, output).returncode == 0
    assert tables(str(store.scores), "scores").num_rows == 14


def test_scores_planned_in_other_units_are_refused(store) -> None:
    """Loose objects may be cut into other groups; their rows would be in no file, or in two."""
    assert store.encode().returncode == store.score().returncode == 0
    (store.archive / "2.png").write_bytes(encoded_phantom(22))
    shutil.rmtree(store.activations)
    assert store.encode().returncode == 0
    before = finished(store.scores)
    refused(store.score(), "is planned in other work units", "choose another output")
    assert finished(store.scores) == before
    assert store.score(output=store.scores.with_name("other")).returncode == 0
    shutil.rmtree(store.scores / "scores")
    refused(store.score(), "is planned in other work units")


def test_scores_of_images_and_of_activations_do_not_mix(store) -> None:
    assert store.encode().returncode == store.score_images().returncode == 0
    refused(store.score(output=store.images), "source images", "but this run has activations")


def test_another_backbone_is_refused(store, training_run, tmp_path) -> None:
    assert store.encode().returncode == 0
    store.detector = Path(shutil.copytree(training_run, tmp_path / "other"))
    for path in store.detector.rglob("*.safetensors"):
        content = path.read_bytes()
        known = deserialize(content, str(path)).provenance.identity.weights.encode()
        path.write_bytes(content.replace(known, b"0" * len(known)))
    refused(store.score(), "has another backbone than the activations", "weights 0000")
    refused(
        run_command(encode, "--archive", store.archive, "--output", store.activations),
        "say which backbone encodes",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 2}, "adapts 2 blocks"),
        ({"input": InputConfig(resize="pad")}, "takes its input in another way"),
        ({"tokens": 0}, "have no tokens"),
    ],
)
def test_a_detector_that_needs_more_than_is_stored_is_refused(
    store, training_run, backbone, changes, message
) -> None:
    fits = load_fits(str(training_run))
    known = fits[0].provenance
    learner = known.learner
    if "blocks" in changes:
        image = learner.adapter.image.model_copy(update={"blocks": changes["blocks"]})
        adapter = learner.adapter.model_copy(update={"image": image})
        learner = learner.model_copy(update={"adapter": adapter})
    about = known.model_copy(
        update={"learner": learner, "input": changes.get("input", known.input)}
    )
    layout = Layout.of(backbone)
    layout = layout.model_copy(update={"tokens": changes.get("tokens", layout.tokens)})
    stored = Stored("a", known.backbone, known.identity, backbone.spec, layout)
    with pytest.raises(UserError, match=message) as raised:
        check_fits(about, "d", stored, "s")
    assert "--archive" in str(raised.value)


def test_a_file_that_is_damaged_or_missing_is_named(store) -> None:
    assert store.encode().returncode == 0
    path = next((store.activations / "activations").glob("part-*.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    refused(store.score(), path.name, "is missing or damaged", f"remove every {path.name} under")
    refused(store.verify("--activations", store.activations), f"{path} is missing or damaged")
    for part in store.activations.rglob(path.name):
        part.unlink()
    assert store.encode().returncode == store.score().returncode == 0


def test_a_damaged_table_of_scores_is_named_by_those_who_read_it(store) -> None:
    assert store.encode().returncode == store.score().returncode == 0
    part = next((store.scores / "scores").glob("part-*.parquet"))
    part.write_bytes(b"hi")
    refused(store.verify("--scores", store.scores), f"{part} is missing or damaged")
    with pytest.raises(UserError, match=f"{part.name} is missing or damaged"):
        list(written.read_parts(str(store.scores), "scores", [part.stem.removeprefix("part-")]))


def test_the_two_kinds_of_tables_are_not_confused(store, tmp_path) -> None:
    assert store.encode().returncode == store.score().returncode == 0
    refused(store.verify("--scores", store.activations), "holds activations, and no scores")
    refused(store.verify("--activations", store.scores), "holds scores, and no activations")
    refused(store.verify(), "give either --scores or --activations")
    refused(run_command(score, "--detector", "d", "--output", "o"), "give either --archive")
    store.activations, there = store.scores, store.activations
    refused(store.score(), "holds scores, and no activations")
    refused(store.encode(), "holds the results of another job (score_archive)")
    store.activations = tmp_path / "none"
    refused(store.score(), "there are no activations at", "`sdmad encode`")
    arguments = ("--labels", "l.csv", "--output", tmp_path / "report")
    refused(run_command(evaluate, "--scores", there, *arguments), "holds activations")


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_with_ray(tmp_path, training_run, s3) -> None:
    """The same two jobs through Ray Data, on S3."""
    store = Encoded(tmp_path, training_run)
    for k in range(2):
        members = {f"{j}.png": encoded_phantom(j) for j in range(5)} | {"bad.png": b"x"}
        write_tar(store.archive / f"{k}.tar", members)
    store.activations, store.scores = f"{s3}/kept/activations", f"{s3}/kept/scores"
    for ended in (store.encode("--batch-size", 4), store.score("--batch-size", 4)):
        assert ended.returncode == 0, ended.stderr
        assert "10 images in 2 work units, 2 failures" in ended.stdout
    assert store.verify("--activations", store.activations).returncode == 0
    assert store.verify("--scores", store.scores).returncode == 0
    detector = Detector.load(str(training_run), "cpu")
    right = detector.score([encoded_phantom(j) for j in range(5)])
    rows = by_image(tables(store.scores, "scores"))
    assert np.allclose([row["anomaly_score"] for row in rows], [*right.anomaly] * 2, atol=1e-3)


def test_a_backbone_comes_with_its_input_from_a_configuration_or_a_detector(
    training_run, tmp_path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("archive: a\nlabels: l\ncatalog: retinal_oct\n")
    backbone, given = chosen_backbone(None, None, str(config), None)
    assert backbone == BackboneConfig()
    assert given == load_catalog("retinal_oct").input != InputConfig(), "that of the catalog"
    known = load_fits(str(training_run))[0].provenance
    assert chosen_backbone(None, None, None, str(training_run)) == (known.backbone, known.input)
    assert chosen_backbone("phantom", None, None, None) == (BackboneConfig(), InputConfig())
    for several in (("phantom", None, str(config), None), (None, "openai", str(config), None)):
        with pytest.raises(UserError, match="say which backbone encodes"):
            chosen_backbone(*several)
