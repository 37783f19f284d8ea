"""Differences between methods: intervals, verdicts corrected for many comparisons, and power.

    judged = judge([over_seeds(ours - theirs) for theirs in rivals])
    judged[0].verdict, judged[0].low, judged[0].high, judged[0].detectable

Differences are paired: both methods were measured on the same supports and test images. All
comparisons that are shown together are judged together, as one *family*.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.05
"""The probability of one or more wrong verdicts in a family without any difference, at most."""
POWER = 0.8
BETTER, WORSE, NOT_DISTINGUISHABLE = "better", "worse", "not distinguishable"
QUANTILES = 2001
ROUNDING = 1e-12  # Differences of equal metrics.


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, and the degrees of freedom of that error."""

    mean: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, by Student's t, cut at -1 and 1, between which differences
        of two shares lie; NaN if the error is unknown."""
        half = float(stats.t.ppf(1 - LEVEL / 2, self.freedom)) * self.error
        low, high = np.clip([self.mean - half, self.mean + half], -1.0, 1.0)
        return float(low), float(high)

    @property
    def p(self) -> float:
        """The two-sided p value of the hypothesis that the mean is 0."""
        if self.error <= ROUNDING:
            return 1.0 if abs(self.mean) <= ROUNDING else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))


def over_seeds(values: np.ndarray) -> Estimate:
    """The mean over seeds with error s / sqrt(n) and n - 1 degrees of freedom, of values (n,).

    Values that are not finite are left out. With fewer than two the error is NaN.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    count = len(values)
    if count < 2:
        return Estimate(float(values[0]) if count else math.nan, math.nan, math.nan)
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(count), count - 1)


def over_seeds_and_patients(values: np.ndarray, replicates: np.ndarray, patients: int) -> Estimate:
    """The mean of values (n,) of seeds with the error that bootstrap replicates (R,) show.

    `replicates` are means over resampled seeds and resampled test patients
    (`sdmad.comparison.bootstrap`). The degrees of freedom are Satterthwaite's (1946): n - 1 for the
    part of the variance that comes from seeds, `patients` - 1 for the rest; rounded down.
    """
    seeds = over_seeds(values)
    variance = float(np.nanvar(replicates, ddof=1)) if len(replicates) > 1 else math.nan
    if not math.isfinite(seeds.error) or not math.isfinite(variance):
        return Estimate(seeds.mean, math.nan, math.nan)
    from_seeds = min(seeds.error**2, variance)
    rest = variance - from_seeds
    spread = from_seeds**2 / seeds.freedom + rest**2 / max(1, patients - 1)
    freedom = variance**2 / spread if spread else seeds.freedom
    return Estimate(seeds.mean, math.sqrt(variance), math.floor(freedom + 1e-9))


@dataclass(frozen=True)
class Judged:
    """A difference, its 95 % interval, and the verdict on it within its family.

    `low` and `high` are not corrected, `corrected_p` is (Holm). `detectable` is the smallest true
    difference that would be found with a probability of 80 % (`detectable_difference`).
    """

    mean: float
    low: float
    high: float
    p: float
    corrected_p: float
    detectable: float
    verdict: str


def judge(family: Sequence[Estimate]) -> list[Judged]:
    """The verdict on each difference of a family.

    It is "better" (the mean is positive), "worse", or "not distinguishable" if Holm's corrected p
    value is above 0.05 or unknown.
    """
    p = np.array([estimate.p for estimate in family], float)
    corrected = holm(p)
    comparisons = int(np.isfinite(p).sum())
    found = []
    for estimate, value, judged in zip(family, p.tolist(), corrected.tolist(), strict=True):
        verdict = NOT_DISTINGUISHABLE
        if judged <= LEVEL:
            verdict = BETTER if estimate.mean > 0 else WORSE
        low, high = estimate.interval
        smallest = detectable_difference(estimate, comparisons)
        found.append(Judged(estimate.mean, low, high, value, judged, smallest, verdict))
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """P values corrected for their number by Holm's step-down method; NaN stays and does not count.

    Holm, Scandinavian Journal of Statistics 6, 1979. Values up to `LEVEL` are significant: the
    probability of one or more wrong ones among them is at most `LEVEL`, however they depend.
    """
    p = np.asarray(p, float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN is last.
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def detectable_difference(estimate: Estimate, comparisons: int) -> float:
    """The smallest true difference that is found with a probability of `POWER`.

    It is the noncentrality of the t test with this power, times the standard error (Cohen,
    Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2, with the exact
    noncentral t distribution). The level is `LEVEL / comparisons`, that of Holm's first step, so
    the power is at least this whatever the other comparisons show.
    """
    if not math.isfinite(estimate.error):
        return math.nan
    if estimate.error <= ROUNDING:
        return 0.0
    return noncentrality(estimate.freedom, LEVEL / max(1, comparisons)) * estimate.error


@lru_cache(maxsize=4096)
def noncentrality(freedom: float, level: float, power: float = POWER) -> float:
    """The noncentrality with which a two-sided t test at `level` has this power."""
    critical = float(stats.t.isf(level / 2, freedom))
    # The noncentral t distribution, as the mean of a normal one over the estimated error:
    # `scipy.stats.nct` gives NaN far out in its tails.
    borders = critical * _quantiles(freedom)

    def excess(shift: float) -> float:
        found = special.ndtr(shift - borders) + special.ndtr(-shift - borders)
        return float(found.mean()) - power

    high = critical + 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high))


def _quantiles(freedom: float) -> np.ndarray:
    """Evenly spaced quantiles of s / sigma, the estimated over the true standard error."""
    share = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return np.sqrt(special.chdtri(freedom, 1 - share) / freedom)
