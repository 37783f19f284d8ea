"""Probabilities from logits, against scikit-learn and on data with known probabilities."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from sdmad.evaluation.platt import LEAST_SLOPE, fit_probabilities


def drawn(count: int, slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, count)
    return logits, rng.random(count) < expit(slope * logits + intercept)


def fit(logits, truth) -> tuple[float, float]:
    one = np.ones((1, len(truth)))
    slope, intercept = fit_probabilities(logits, one * truth, one * ~truth)
    return float(slope[0]), float(intercept[0])


def test_with_many_images_it_is_a_logistic_regression() -> None:
    logits, truth = drawn(20_000, 0.4, -1.5)
    theirs = LogisticRegression(C=np.inf).fit(logits[:, None], truth)
    assert fit(logits, truth) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=2e-3)


def test_mean_probability_is_the_share_of_images() -> None:
    logits, truth = drawn(300, 0.4, -1.5)
    slope, intercept = fit(logits, truth)
    assert expit(slope * logits + intercept).mean() == pytest.approx(truth.mean(), abs=1e-6)


def test_separated_images_do_not_make_the_slope_infinite() -> None:
    logits = np.concatenate([np.full(10, 8.0), np.full(90, -8.0)])
    slope, _ = fit(logits, logits > 0)
    assert 0.9 < slope < 2


def test_a_slope_is_never_negative_and_the_mean_is_still_right() -> None:
    logits, truth = drawn(2000, -0.5, 0.5)
    slope, intercept = fit(logits, truth)
    assert slope == LEAST_SLOPE
    assert expit(slope * logits + intercept).mean() == pytest.approx(truth.mean(), abs=1e-6)


def test_wide_logits_converge() -> None:
    """Newton's full steps would diverge here."""
    logits, truth = drawn(400, 0.4, 0.0)
    slope, _ = fit(10 * logits, truth)
    assert slope == pytest.approx(fit(logits, truth)[0] / 10, rel=0.2)


def test_replicates_are_fitted_on_their_own() -> None:
    logits, truth = drawn(500, 0.7, -1)
    weights = np.random.default_rng(1).integers(0, 3, (4, 500)).astype(float)
    slopes, intercepts = fit_probabilities(logits, weights * truth, weights * ~truth)
    for k, w in enumerate(weights):
        repeated = np.repeat(logits, w.astype(int)), np.repeat(truth, w.astype(int))
        assert (slopes[k], intercepts[k]) == pytest.approx(fit(*repeated), abs=1e-3)
    nothing = fit_probabilities(logits, np.zeros((1, 500)), np.ones((1, 500)))
    assert np.isnan(nothing).all()
