"""Thresholds that reach a target on labelled images, and how many images a target needs.

    target = Target("specificity", 0.95)
    threshold = choose(target, scores, truth, weights, prevalence=0.05)

A finding is a score above the threshold. Thresholds are those of split conformal prediction: they
count one more image, on the wrong side, so that *new* images reach the target on average (Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005). Shapes: N images, R replicates.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEAST_EACH = 10
"""Patients with a category, and without it, that probabilities need."""


@dataclass(frozen=True)
class Target:
    """What thresholds must reach: `kind` is specificity, sensitivity or findings_a_thousand."""

    kind: str
    value: float

    @property
    def needed(self) -> int:
        """The fewest patients that can show the target.

        With n patients and no mistake among them, the one-sided 95 % lower bound of the rate is
        0.05^(1/n) (Clopper and Pearson, 1934); it must reach the target.
        """
        rate = 1 - self.value / 1000 if self.kind == "findings_a_thousand" else self.value
        return math.ceil(math.log(1 - CONFIDENCE) / math.log(rate) - 1e-9)

    @property
    def needed_with(self) -> int:
        """Patients with the category that are needed."""
        return max(LEAST_EACH, self.needed if self.kind == "sensitivity" else 0)

    @property
    def needed_without(self) -> int:
        """Patients without the category that are needed."""
        return max(LEAST_EACH, self.needed if self.kind != "sensitivity" else 0)

    def shown_by(self, patients: int) -> "Target":
        """About the most demanding target of this kind that so many patients can show."""
        rate = (1 - CONFIDENCE) ** (1 / patients)
        if self.kind == "findings_a_thousand":
            return replace(self, value=float(math.ceil(1000 * (1 - rate))))
        return replace(self, value=math.floor(100 * rate) / 100)

    @property
    def option(self) -> str:
        """Its option of `sdmad calibrate`."""
        return f"--{self.kind.replace('findings_a_thousand', 'max-findings-a-thousand')}"

    @property
    def text(self) -> str:
        if self.kind == "findings_a_thousand":
            return f"{self.value:g} findings a thousand images"
        return f"{self.kind} {self.value:g}"

    @property
    def reason(self) -> str:
        """Why fewer patients than `needed` do not show the target."""
        wrong = {
            "specificity": "without any false finding",
            "sensitivity": "without any miss",
            "findings_a_thousand": "without any finding",
        }[self.kind]
        bound = "upper" if self.kind == "findings_a_thousand" else "lower"
        return f"with fewer, even {wrong} the 95 % {bound} bound misses the target"


def choose(
    target: Target,
    scores: np.ndarray,
    truth: np.ndarray,
    weights: np.ndarray,
    prevalence: float | None,
) -> np.ndarray:
    """Thresholds (R,) for scores (N,) float32 and truth (N,), where images count `weights` (R, N).

    The lowest threshold that reaches a specificity or a number of findings, the highest that
    reaches a sensitivity. `prevalence` weighs images with and without the category; None takes them
    as they are. NaN where a replicate has no image to choose from.
    """
    order = np.argsort(scores, kind="stable")
    ranked, shown, weights = scores[order], truth[order], weights[:, order]
    if target.kind == "sensitivity":
        return _highest(ranked, weights * shown, 1 - target.value)
    if target.kind == "specificity":
        return _lowest(ranked, weights * ~shown, 1 - target.value)
    if prevalence is not None:
        weights = _at_prevalence(weights, shown, prevalence)
    return _lowest(ranked, weights, target.value / 1000)


def _at_prevalence(weights: np.ndarray, shown: np.ndarray, prevalence: float) -> np.ndarray:
    """Weights (R, N) with the same total, of which images with the category have `prevalence`."""
    total = weights.sum(axis=1, keepdims=True)
    positive = (weights * shown).sum(axis=1, keepdims=True)
    negative = total - positive
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(shown, prevalence * total / positive, (1 - prevalence) * total / negative)
        return np.where(weights > 0, weights * scale, 0.0)


def _lowest(ranked: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """The lowest score (R,) above which lies at most `share` of weights (R, N)."""
    total = weights.sum(axis=1)
    above = total[:, None] - np.cumsum(weights, axis=1, dtype=np.float64)
    allowed = share * (total + 1) - 1
    enough = above <= np.maximum(allowed, 0)[:, None] + 1e-6
    chosen = ranked[np.argmax(enough & (weights > 0), axis=1)].astype(np.float64)
    return np.where(total > 0, chosen, np.nan)


def _highest(ranked: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """The highest number (R,) at or below which lies at most `share` of weights (R, N)."""
    total = weights.sum(axis=1)
    below = np.cumsum(weights, axis=1, dtype=np.float64)
    allowed = np.maximum(share * (total + 1) - 1, 0)
    first = ranked[np.argmax((below > allowed[:, None] + 1e-6) & (weights > 0), axis=1)]
    just_below = np.nextafter(first, np.float32(-1)).astype(np.float64)
    return np.where(total > 0, just_below, np.nan)


def exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a rate by Clopper and Pearson (1934)."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    some = successes < trials
    high = float(stats.beta.ppf(1 - tail, successes + 1, trials - successes)) if some else 1.0
    return low, high
