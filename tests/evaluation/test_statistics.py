"""Intervals, corrected p values, verdicts and power, against published values and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from sdmad.evaluation.protocols import summarise
from sdmad.evaluation.statistics import (
    Estimate,
    detectable_difference,
    holm,
    judge,
    noncentrality,
    over_seeds,
    over_seeds_and_patients,
)

NOISE = np.array([0.001, -0.002, 0.003, -0.001, 0.002, -0.003, 0.001, -0.001])


def test_interval_and_p_value_are_those_of_the_paired_t_test() -> None:
    ours, theirs = np.random.default_rng(0).normal(0.5, 0.1, (2, 8))
    expected = stats.ttest_rel(ours, theirs)
    found = over_seeds(ours - theirs)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    summary = summarise(ours - theirs)
    assert found.interval == pytest.approx((summary.low, summary.high)), "as in the report"


def test_equal_metrics_have_p_value_1_and_constant_differences_0() -> None:
    assert over_seeds(np.zeros(5)).p == 1
    assert over_seeds(np.full(5, 0.3) - (0.1 + 0.2)).p == 1, "a rounding error"
    constant = over_seeds(np.full(5, 0.25))
    assert (constant.p, constant.interval) == (0, (0.25, 0.25))


def test_without_a_second_seed_there_is_no_interval_and_no_verdict() -> None:
    for values in ([0.1], [0.1, np.nan], []):
        (found,) = judge([over_seeds(np.array(values))])
        assert math.isnan(found.p)
        assert math.isnan(found.low)
        assert math.isnan(found.detectable)
        assert found.verdict == "not distinguishable"


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        # The example of Holm() in the documentation of Julia's MultipleTesting.
        ([0.001, 0.01, 0.03, 0.5], [0.004, 0.03, 0.06, 0.5]),
        ([0.5, 0.03, 0.001, 0.01], [0.5, 0.06, 0.004, 0.03]),
        # R leaves NA out: p.adjust(c(0.02, NA, 0.01), "holm")
        ([0.02, math.nan, 0.01], [0.02, math.nan, 0.02]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holms_correction(p, corrected) -> None:
    assert holm(np.array(p)) == pytest.approx(np.array(corrected), nan_ok=True)


def test_verdicts_depend_on_the_size_of_the_family() -> None:
    ahead = over_seeds(NOISE + 0.0025)
    assert 0.005 < ahead.p < 0.05
    assert [found.verdict for found in judge([ahead])] == ["better"]
    behind = Estimate(-ahead.mean, ahead.error, ahead.freedom)
    assert [found.verdict for found in judge([behind])] == ["worse"]
    many = judge([ahead] + 20 * [over_seeds(NOISE)])
    assert {found.verdict for found in many} == {"not distinguishable"}
    assert many[0].low > 0, "intervals are not corrected"


def test_a_family_without_differences_has_a_verdict_in_at_most_5_percent() -> None:
    """Of 400 families of 40 comparisons that share a method, as those of a comparison do."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        values = random.normal(size=(41, 8))
        p = stats.ttest_1samp(values[0] - values[1:], 0, axis=1).pvalue
        wrong += bool((holm(p) <= 0.05).any())
    assert wrong / 400 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(
    ("freedom", "shift", "power"),
    [
        # G*Power 3.1 manual, two dependent means: dz 0.421637, n = 50, delta 2.981424.
        (49, 2.981424, 0.832114),
        # R: power.t.test(n = 20, delta = 1), where delta is sqrt(10).
        (38, math.sqrt(10), 0.8689528),
    ],
)
def test_power_against_published_values(freedom, shift, power) -> None:
    assert noncentrality(freedom, 0.05, power) == pytest.approx(shift, abs=2e-5)


@pytest.mark.parametrize("comparisons", [1, 560])
@pytest.mark.parametrize("seeds", [2, 3, 8, 16])
def test_the_detectable_difference_is_found_in_80_percent(seeds, comparisons) -> None:
    random = np.random.default_rng(seeds)
    of_one = Estimate(0.0, 1 / math.sqrt(seeds), seeds - 1)
    true = detectable_difference(of_one, comparisons)
    values = random.normal(true, 1.0, (20_000, seeds))
    p = stats.ttest_1samp(values, 0, axis=1).pvalue
    assert (p <= 0.05 / comparisons).mean() == pytest.approx(0.8, abs=0.01)


def test_degrees_of_freedom_lie_between_those_of_seeds_and_of_patients() -> None:
    values = NOISE + 0.01
    error = over_seeds(values).error
    random = np.random.default_rng(0)
    only_seeds = over_seeds_and_patients(values, random.normal(0, error, 5000), 400)
    assert only_seeds.freedom == pytest.approx(7, rel=0.1)
    assert only_seeds.error == pytest.approx(error, rel=0.03)
    both = over_seeds_and_patients(values, random.normal(0, 3 * error, 5000), 400)
    assert 100 < both.freedom < 406
    assert both.mean == pytest.approx(0.01)
    fixed = over_seeds_and_patients(np.full(8, 0.25), random.normal(0.25, 0.1, 5000), 400)
    assert fixed.freedom == pytest.approx(399), "a method that does not depend on the support"
    assert over_seeds_and_patients(np.full(8, 0.25), np.full(100, 0.25), 400).p == 0
