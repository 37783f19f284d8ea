"""Thresholds against their definition, counted image by image."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sdmad.evaluation.thresholds import Target, choose, exact_interval

ROWS = st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=25, max_size=80)


def arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = zip(*rows, strict=True)
    return np.array(scores, np.float32) / 30, np.array(truth)


def alone(target: Target, scores, truth, prevalence=None) -> float:
    return float(choose(target, scores, truth, np.ones((1, len(scores))), prevalence)[0])


@given(ROWS)
def test_the_lowest_threshold_of_a_specificity(rows) -> None:
    scores, truth = arrays(rows)
    negative = scores[~truth]
    if len(negative) == 0:
        return
    threshold = alone(Target("specificity", 0.9), scores, truth)
    allowed = max(0, math.floor(0.1 * (len(negative) + 1) + 1e-9) - 1)
    assert (negative > threshold).sum() <= allowed
    lower = negative[negative < threshold]
    assert len(lower) == 0 or (negative > lower.max()).sum() > allowed


@given(ROWS)
def test_the_highest_threshold_of_a_sensitivity(rows) -> None:
    scores, truth = arrays(rows)
    positive = scores[truth]
    if len(positive) == 0:
        return
    threshold = alone(Target("sensitivity", 0.8), scores, truth)
    allowed = max(0, math.floor(0.2 * (len(positive) + 1) + 1e-9) - 1)
    assert (positive <= threshold).sum() <= allowed
    assert (positive <= np.nextafter(np.float32(threshold), np.float32(2))).sum() > allowed


def test_new_images_reach_the_target_on_average() -> None:
    """The guarantee of split conformal prediction, for validation sets of 59 images."""
    rng = np.random.default_rng(0)
    target = Target("specificity", 0.95)
    reached = []
    for _ in range(400):
        scores = rng.random(59).astype(np.float32)
        reached.append(alone(target, scores, np.zeros(59, bool)))  # Uniform: the specificity.
    assert np.mean(reached) >= 0.95
    assert np.mean(reached) < 0.96


@given(ROWS, st.randoms(use_true_random=False))
def test_a_replicate_is_the_same_as_repeated_images(rows, random) -> None:
    scores, truth = arrays(rows)
    times = np.array([random.randint(0, 3) for _ in rows])
    repeated = np.repeat(scores, times), np.repeat(truth, times)
    for target in (Target("specificity", 0.9), Target("sensitivity", 0.8)):
        wanted = ~truth if target.kind == "specificity" else truth
        found = float(choose(target, scores, truth, times[None].astype(float), None)[0])
        if (times * wanted).sum() == 0:
            assert math.isnan(found)
        else:
            assert found == alone(target, *repeated)


def test_findings_a_thousand_are_counted_at_the_prevalence() -> None:
    rng = np.random.default_rng(1)
    truth = np.arange(4000) < 2000
    scores = np.where(truth, 0.8, 0.0).astype(np.float32) + rng.random(4000).astype(np.float32)
    target = Target("findings_a_thousand", 100)
    for prevalence in (0.05, 0.3):
        threshold = alone(target, scores, truth, prevalence)
        found = scores > threshold
        rate = prevalence * found[truth].mean() + (1 - prevalence) * found[~truth].mean()
        assert rate == pytest.approx(0.1, abs=0.002)
    assert np.mean(scores > alone(target, scores, truth)) == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    ("target", "needed"),
    [
        (Target("specificity", 0.95), 59),
        (Target("sensitivity", 0.9), 29),
        (Target("findings_a_thousand", 20), 149),
        (Target("specificity", 0.5), 5),
    ],
)
def test_the_number_needed_is_the_first_whose_bound_reaches_the_target(target, needed) -> None:
    rate = 1 - target.value / 1000 if target.kind == "findings_a_thousand" else target.value
    bounds = {
        n: stats.binomtest(n, n, alternative="greater").proportion_ci(0.95).low
        for n in (needed - 1, needed)
    }
    assert bounds[needed] >= rate > bounds[needed - 1]
    assert target.needed == needed


@pytest.mark.parametrize("kind", ["specificity", "sensitivity", "findings_a_thousand"])
@pytest.mark.parametrize("patients", [10, 31, 59, 250])
def test_so_many_patients_can_show_the_target_that_is_named_for_them(kind, patients) -> None:
    target = Target(kind, 0.99).shown_by(patients)
    assert target.kind == kind
    assert target.needed <= patients
    step = 1 if kind == "findings_a_thousand" else -0.01
    assert Target(kind, target.value - step).needed > patients


@pytest.mark.parametrize(("k", "n"), [(0, 12), (12, 12), (5, 12)])
def test_the_exact_interval_is_scipys(k, n) -> None:
    ours = exact_interval(k, n)
    assert ours == pytest.approx(tuple(stats.binomtest(k, n).proportion_ci(0.95)))
