"""Scores beside the cells, and which cells count as done."""

import numpy as np
import pytest

from sdmad.comparison.run import cell_uri, list_cells
from sdmad.comparison.scores import (
    read_possible,
    read_scores,
    read_stated,
    read_test,
    scores_uri,
    write_scores,
    write_test,
)
from sdmad.inputs.labels import LabelTable


def test_scores_and_test_images_are_read_as_they_were_written(tmp_path) -> None:
    random = np.random.default_rng(0)
    scores, anomaly = random.random((4, 2)).astype(np.float32), random.random(4)
    cell = cell_uri(str(tmp_path), "method-01234567", 4, 0)
    write_scores(cell, ["one", "two"], scores, anomaly)
    found, of_image = read_scores(cell)
    assert np.array_equal(found, scores)
    assert of_image == pytest.approx(anomaly, abs=1e-7)
    assert read_possible(cell) is None
    possible = random.random((4, 2, 2)) < 0.5
    assert read_stated(cell) is None
    stated = np.random.default_rng(1).random((len(scores), 3)).astype(np.float32)
    write_scores(cell, ["one", "two"], scores, anomaly, possible, stated)
    assert np.array_equal(np.column_stack(read_stated(cell)), stated)
    assert np.array_equal(read_possible(cell), possible)
    assert np.array_equal(read_scores(cell)[0], scores)
    labels = random.random((4, 2)) < 0.5
    names = [np.array(list(letters), object) for letters in ("aaab", "wxyz", "PQPR", "tttt")]
    write_test(str(tmp_path), LabelTable(*names, labels, ["one", "two"]))
    truth, patients = read_test(str(tmp_path))
    assert np.array_equal(truth, labels)
    assert patients.tolist() == [0, 1, 0, 2]
    assert b"PQPR" not in (tmp_path / "test.parquet").read_bytes()


def test_a_cell_counts_when_it_has_metrics_and_scores(tmp_path) -> None:
    for seed in range(3):
        cell = cell_uri(str(tmp_path), "method-01234567", 4, seed)
        write_scores(cell, ["one"], np.zeros((2, 1)), np.zeros(2))
        if seed < 2:
            (tmp_path / cell).write_bytes(b"metrics")
    (tmp_path / scores_uri(cell_uri(str(tmp_path), "method-01234567", 4, 1))).unlink()
    assert list_cells(str(tmp_path)) == {("method-01234567", 4, 0)}
