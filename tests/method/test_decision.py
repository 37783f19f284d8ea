"""Calibrated probabilities and findings on arrays."""

import numpy as np
import pytest
from scipy.special import expit, logit

from sdmad.method.decision import Decision

DECISION = Decision(
    categories=("one", "two"),
    slope=np.array([0.5, 1.0]),
    intercept=np.array([-1.0, 0.0]),
    threshold=np.array([0.2, 0.5]),
    doubt=np.array([[0.15, 0.25], [0.5, 0.5]]),
    as_scored=np.array([False, True]),
)


def test_probabilities_are_those_of_the_formula_and_the_order_stays() -> None:
    logits = np.linspace(-20, 20, 401, dtype=np.float32)[:, None].repeat(2, axis=1)
    scores = DECISION.scores(logits, np.full_like(logits, 0.7))
    assert scores.dtype == np.float32
    assert scores[:, 0] == pytest.approx(expit(0.5 * logits[:, 0] - 1), rel=1e-6)
    assert (np.diff(scores[:, 0]) >= 0).all()
    assert (scores[:, 1] == np.float32(0.7)).all(), "a category may stay as it was scored"


def test_findings_and_doubts_follow_the_threshold_and_its_interval() -> None:
    scores = np.array([[0.2, 0.51], [0.2001, 0.5], [0.3, 0.4]], np.float32)
    assert DECISION.found(scores).tolist() == [[False, True], [True, False], [True, False]]
    assert DECISION.doubtful(scores).tolist() == [[True, False], [True, False], [False, False]]


def test_spread_is_that_of_the_seeds_to_first_order() -> None:
    rng = np.random.default_rng(0)
    raw = expit(rng.normal(0.3, 0.01, (50, 8))).astype(np.float32)
    exact = DECISION.seeds(0, raw)
    assert exact == pytest.approx(expit(0.5 * logit(raw.astype(float)) - 1), rel=1e-5)
    near = DECISION.spread(0, raw.mean(axis=1), raw.std(axis=1))
    assert near == pytest.approx(exact.std(axis=1), rel=0.02)
    assert DECISION.seeds(1, raw) is raw


def test_scores_of_0_and_1_stay_finite() -> None:
    ends = np.array([[0.0, 1.0]], np.float32)
    assert np.isfinite(DECISION.seeds(0, ends)).all()
    assert np.isfinite(DECISION.spread(0, ends[0], np.zeros(2))).all()
