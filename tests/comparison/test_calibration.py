"""Calibration errors, and coverage of conformal sets, of stored scores."""

import numpy as np
import pytest

from sdmad.comparison.calibration import (
    at_shares,
    by_chance,
    calibration,
    coverage,
    errors,
    tables,
)
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.run import cell_uri, stored_name
from sdmad.comparison.scores import write_scores, write_test
from sdmad.inputs.labels import LabelTable


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_scores_that_are_right_at_half_have_no_error_at_the_true_prevalence() -> None:
    """x is normal around +1 with the category and -1 without; the true odds at 1/2 are exp(2 x)."""
    random = np.random.default_rng(0)
    truth = random.random((200_000, 1)) < 0.1
    x = random.standard_normal(truth.shape) + np.where(truth, 1, -1)
    right = logistic(2 * x)
    found = errors(truth, *at_shares(truth, right, right[:, 0]))
    assert found == pytest.approx({"error": 0, "anomaly_error": 0}, abs=0.003)
    assert errors(truth, right, right[:, 0])["error"] > 0.1


def test_right_probabilities_have_an_error_by_chance() -> None:
    """In each of ten bins the share differs by sqrt(2/pi) standard errors on average."""
    random = np.random.default_rng(1)
    centres = np.repeat(np.arange(10) / 10 + 0.05, 50)
    deviation = np.sqrt(centres * (1 - centres) / 50)
    expected = float(np.mean(np.sqrt(2 / np.pi) * deviation))
    truth = random.random((500, 1)) < centres[:, None]
    found = by_chance(truth, centres[:, None], centres)
    assert found == pytest.approx({"chance": expected, "anomaly_chance": expected}, rel=0.12)
    assert errors(truth, centres[:, None], centres)["error"] == pytest.approx(expected, rel=0.5)


def test_rare_categories_do_not_count() -> None:
    truth = np.zeros((40, 2), bool)
    truth[:10, 0] = truth[:4, 1] = True
    scores = np.stack([truth[:, 0], ~truth[:, 1]], axis=1).astype(float)
    assert errors(truth, scores, truth[:, 0].astype(float)) == {"error": 0, "anomaly_error": 0}
    possible = np.ones((40, 2, 2), bool)
    possible[:, 1] = False
    possible[:5, 0, 0] = possible[10:16, 0, 1] = False
    assert coverage(truth, possible) == {"with": 0.5, "without": 0.8, "undecided": 29 / 40}


def test_the_table_has_all_methods_and_seeds(tmp_path) -> None:
    config = CompareConfig(
        archive="a",
        labels="l",
        catalog="phantoms",
        shots=[1],
        seeds="0:2",
        methods=["sd_mad", "gda"],
    )
    random = np.random.default_rng(0)
    names = [np.array([f"{k}" for k in range(40)], object)] * 4
    write_test(str(tmp_path), LabelTable(*names, random.random((40, 1)) < 0.5, ["one"]))
    for method in config.names:
        for seed in (0, 1):
            cell = cell_uri(str(tmp_path), stored_name(config, method), 1, seed)
            sets = np.ones((40, 1, 2), bool) if method == "sd_mad" else None
            stated = random.random((40, 2)) if method == "sd_mad" else None
            scores = (random.random((40, 1)), random.random(40))
            write_scores(cell, ["one"], *scores, sets, stated)
    found = calibration(config, str(tmp_path))
    assert found.groupby("method").size().to_dict() == {"sd_mad": 14, "gda": 8}
    sd_mad, gda = tables(found).splitlines()[-2:]
    assert sd_mad.startswith("| sd_mad |") and "100.0 ± 0.0" in sd_mad
    assert gda.endswith("| - | - | - |")
