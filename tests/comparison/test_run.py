"""A comparison on Ray: its metrics, what it skips, what it refuses."""

import shutil

import numpy as np
import pytest
import yaml

from sdmad.comparison import run
from sdmad.comparison.cell import Bench, TestImages, metrics
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.run import compare, list_cells
from sdmad.errors import UserError
from sdmad.storage.run_record import read_record

QUICK = {"steps": 3, "augment": {"views": 2}}


def config(archive, **more: object) -> CompareConfig:
    content = {
        "archive": str(archive),
        "labels": f"{archive}/labels.csv",
        "catalog": "phantoms",
        "learner": QUICK,
        "shots": [2],
        "seeds": "0:2",
        "methods": ["sd_mad", "zero_shot_signs"],
    }
    return CompareConfig.model_validate(content | more)


@pytest.fixture(scope="module")
def compared(archive, ray_cluster, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("compared"))
    return output, compare(config(archive), output)


def test_every_method_has_every_metric_on_every_support(compared) -> None:
    output, results = compared
    assert len(results) == 2 * 2 * 8
    assert set(results.seed) == {0, 1}
    assert results.value.between(0, 1).all()
    assert len(list_cells(output)) == 4


def test_metrics_equal_those_computed_without_ray(
    compared, supports, backbone, catalog, archive
) -> None:
    from sdmad.archive.selected import decode_members
    from sdmad.inputs.labels import load_labels

    _, results = compared
    setting = config(archive)
    table = load_labels(f"{archive}/labels.csv", catalog.category_names)
    test = table.where(table.split == "test")
    names = list(zip(test.archive.tolist(), test.member.tolist(), strict=True))
    pixels, _ = decode_members(str(archive), names, backbone.spec)
    images = TestImages(np.stack([pixels[name] for name in names]), test.labels)
    bench = Bench(backbone, catalog, setting.learner, setting.budget, images)
    for method in setting.names:
        for (protocol, metric), value in bench.measure(method, None, supports[1]).items():
            row = results[
                (results.method == method)
                & (results.seed == 1)
                & (results.protocol == protocol)
                & (results.metric == metric)
            ]
            assert row.value.item() == pytest.approx(value, abs=2e-3), (method, metric)


def test_existing_cells_are_skipped_and_a_new_method_computes_only_its_own(
    compared, archive, monkeypatch, tmp_path
) -> None:
    """On one actor, where the first cells were computed on as many as there are cores."""
    before, results = compared
    output = str(shutil.copytree(before, tmp_path / "compared"))
    monkeypatch.setattr(run, "_actors", lambda *arguments: (1, 0.0))
    variants = {"lambda=1": {"learner": {"adapter": {"image": {"frozen_weight": 1.0}}}}}
    more = compare(config(archive, variants=variants), output)
    assert read_record(output)["cells_skipped"] == 4
    old = more[more.method != "lambda=1"].reset_index(drop=True)
    assert old.equals(results.reset_index(drop=True))
    assert len(list_cells(output)) == 6
    again = compare(config(archive, variants=variants), output)
    assert read_record(output)["cells_skipped"] == 6
    assert again.equals(more)


def test_another_catalog_is_refused(compared, archive, catalog, tmp_path) -> None:
    output, _ = compared
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(catalog.model_dump(mode="json") | {"modality": "other"}))
    with pytest.raises(UserError, match="holds cells with another"):
        compare(config(archive, catalog=str(changed)), output)


def test_perfect_scores_have_perfect_metrics() -> None:
    truth = np.random.default_rng(0).random((60, 3)) < 0.4
    assert set(metrics(truth, truth.astype(np.float32)).values()) == {1.0}
