"""The protocols on groups of images, from hand-made scores and labels."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sdmad.commands.evaluate import evaluate
from sdmad.errors import UserError
from sdmad.evaluation.by_group import intervals, measure_groups
from sdmad.evaluation.measure import load_scored_test, over_seeds
from sdmad.scoring.groups.pooling import Pooling
from tests.evaluation.test_measure import CATEGORIES, write_run
from tests.helpers import run_command

IMAGES = 120  # two of each patient; the last five patients are in the pool


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).random((IMAGES, 2)) < 0.2


@pytest.fixture
def labels(tmp_path, truth) -> str:
    lines = ["archive,member,patient_id,split,labels,site"]
    for k, row in enumerate(truth):
        names = ";".join(n for n, y in zip(CATEGORIES, row, strict=True) if y)
        split = "pool" if k >= IMAGES - 10 else "test"
        site = "" if k == 0 else f"site{k % 7}"
        lines.append(f"a.tar,{k}.png,p{k // 2},{split},{names},{site}")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def noisy(truth: np.ndarray, seeds: int) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 0.25, (*truth.shape, seeds))
    return np.clip(np.where(truth, 0.7, 0.2)[..., None] + noise, 0, 1)


def test_a_patient_has_the_labels_of_all_images_and_their_highest_score(
    tmp_path, truth, labels
) -> None:
    scores = noisy(truth, 3)
    run = write_run(tmp_path / "run", scores)
    test = load_scored_test(run, labels)
    grouped = measure_groups(test, labels, "patient_id", Pooling())
    pairs = slice(0, IMAGES - 10)
    expected = truth[pairs].reshape(-1, 2, 2).any(axis=1)
    assert grouped.test.table.member.tolist() == [f"p{k}" for k in range(len(expected))]
    assert np.array_equal(grouped.test.truth, expected)
    by_hand = scores.astype(np.float32)[pairs].reshape(-1, 2, 2, 3).max(axis=1)
    assert np.allclose(grouped.test.seeds, by_hand, atol=1e-6)
    assert (grouped.test.notices, grouped.test.missing) == ([], 0)
    on_images, on_patients = over_seeds(measure_of(test)), over_seeds(grouped.metrics)
    assert on_images["anomaly detection", "auroc"] != on_patients["anomaly detection", "auroc"]
    rows = {row.name: row for row in grouped.rows()}
    assert rows["AUROC"].low < rows["AUROC"].ensemble < rows["AUROC"].high
    assert intervals(grouped.test, 50) == intervals(grouped.test, 50), "every call draws the same"


def measure_of(test):
    from sdmad.evaluation.measure import measure

    return measure(test)


def test_groups_without_scores_and_images_without_groups_are_told(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", noisy(truth, 2)[: IMAGES - 16])
    test = load_scored_test(run, labels)
    grouped = measure_groups(test, labels, "patient_id", Pooling("mean-top", 2))
    assert grouped.test.missing == 3
    assert grouped.test.notices == ["3 groups without a scored test image left out"]
    assert grouped.test.notices[0].named.endswith("left out: p52, p53, p54")
    by_site = measure_groups(test, labels, "site", Pooling())
    assert len(by_site.test.table) == 7
    assert by_site.test.notices == [
        "1 test image without a site left out",
        "7 groups with images in other splits too; only test images count",
    ]
    with pytest.raises(UserError, match=r"has no column 'patients' .is 'patient_id' meant"):
        measure_groups(test, labels, "patients", Pooling())


def test_the_command_shows_and_writes_the_metrics_by_group(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", noisy(truth, 2))
    places = ("--scores", run, "--labels", labels, "--output", tmp_path / "out")
    result = run_command(evaluate, *places, "--by", "patient_id", "--how", "noisy-or")
    assert result.returncode == 0, result.stderr
    assert "55 groups by patient_id (noisy-or), in per cent" in result.stdout
    said = [line for line in result.stderr.splitlines() if line.startswith("evaluating: ")]
    assert said[0].startswith("evaluating: reading 2 score tables of ")
    assert said[-1] == "evaluating: writing the report"
    table = pq.read_table(tmp_path / "out/protocols_by_group.parquet")
    assert table.schema.metadata[b"sdmad.how"] == b"noisy-or"
    rows = table.to_pandas()
    known = rows[np.isfinite(rows.low)]
    assert set(known.seed) == {"ensemble"}
    assert len(known) == 8
    assert (known.low <= known.high).all()
    record = json.loads((tmp_path / "out/run.json").read_text())["groups"]
    assert (record["by"], record["groups"]) == ("patient_id", 55)
    page = (tmp_path / "out/report.html").read_text()
    assert "<h2>By patient_id</h2>" in page
    assert 'href="#groups"' in page
