"""Calibration, operating points and confusion on arrays with known results."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmad.report.decisions import at_prevalence, confusion, operating_point, reliability


def test_calibration_error_is_the_distance_weighted_by_images() -> None:
    # Bin 0 to 0.1: four images at 0.05, none has it. Bin 0.9 to 1: one of two images at 0.95.
    probabilities = np.array([0.05] * 4 + [0.95] * 2)
    truth = np.array([False] * 4 + [True, False])
    curve = reliability(truth, probabilities)
    assert curve.predicted == pytest.approx([0.05, 0.95])
    assert curve.observed == pytest.approx([0, 0.5])
    assert curve.images.tolist() == [4, 2]
    assert curve.error == pytest.approx((4 * 0.05 + 2 * 0.45) / 6)


def test_each_image_is_in_exactly_one_bin() -> None:
    probabilities = np.concatenate([np.linspace(0, 1, 101), [0.3, 0.7, 1e-9]]).astype(np.float32)
    curve = reliability(probabilities > 0.4, probabilities)
    assert curve.images.sum() == len(probabilities)
    assert np.average(curve.predicted, weights=curve.images) == pytest.approx(probabilities.mean())


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_a_large_one() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(20_000)
    truth = rng.random(20_000) < probabilities
    assert reliability(truth, probabilities).error < 0.02
    assert reliability(truth, (probabilities > 0.5).astype(float)).error > 0.2


def test_prevalence_corrects_by_bayes() -> None:
    truth = np.zeros((10, 2), bool)
    truth[0, 0] = True
    truth[:5, 1] = True
    corrected = at_prevalence(truth, np.full((10, 2), 0.8))
    assert corrected[:, 0] == pytest.approx(0.8 * 0.1 / (0.8 * 0.1 + 0.2 * 0.9))
    assert corrected[:, 1] == pytest.approx(0.8), "a prevalence of one half needs no correction"
    ends = at_prevalence(truth, np.tile([[0.0], [1.0]], (5, 2)))
    assert set(ends.ravel()) == {0, 1}


def test_correction_gives_no_nan_when_no_image_or_every_image_has_the_category() -> None:
    truth = np.tile([False, True], (4, 1))
    corrected = at_prevalence(truth, np.tile([[0.0, 0.0], [1.0, 1.0]], (2, 1)))
    assert corrected.tolist() == [[0, 1]] * 4


@given(st.lists(st.integers(0, 20), min_size=10, max_size=60), st.data())
def test_the_threshold_is_the_lowest_that_reaches_the_specificity(negatives, data) -> None:
    positives = data.draw(st.lists(st.integers(0, 20), min_size=5, max_size=30))
    scores = np.array([*negatives, *positives], np.float32) / 20
    truth = np.arange(len(scores)) >= len(negatives)
    point = operating_point(truth, scores)
    negative, positive = scores[~truth], scores[truth]
    assert (negative <= point.threshold).mean() >= 0.9 - 1e-9
    lower = negative[negative < point.threshold]
    assert len(lower) / len(negative) < 0.9
    assert point.sensitivity == pytest.approx((positive > point.threshold).mean())


def test_with_too_few_images_there_is_no_operating_point() -> None:
    scores = np.linspace(0, 1, 20)
    for positives in (4, 11):
        point = operating_point(np.arange(20) < positives, scores)
        assert np.isnan(point.threshold)
        assert np.isnan(point.sensitivity)
    assert operating_point(np.arange(20) >= 10, scores).sensitivity == 1


def test_confusion_counts_images_with_one_category_alone() -> None:
    truth = np.zeros((24, 3), bool)
    truth[:8, 0] = True
    truth[8:14, :2] = True  # Two anomalies: not counted in any row.
    truth[14:18, 2] = True  # Four images: too few for shares.
    found = np.zeros((24, 3), bool)
    found[:4, 0] = True
    found[2:6, 1] = True
    found[23, 2] = True
    result = confusion(truth, found)
    assert result.images.tolist() == [6, 8, 0, 4]
    assert result.shares[0] == pytest.approx([0, 0, 1 / 6, 5 / 6]), "normal images"
    # Of eight images, four have finding 0, four have finding 1 (two have both), two have none.
    assert result.shares[1] == pytest.approx([4 / 8, 4 / 8, 0, 2 / 8])
    assert np.isnan(result.shares[2:]).all()
