"""Calibrated probabilities and thresholds, one for each category [choice].

    p_c = sigmoid(slope_c logit_c + intercept_c), and c is found if p_c > threshold_c

`sdmad.evaluation.calibrate` fits the parameters on labelled images. Shapes: B images, C categories,
S seeds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

LEAST_PROBABILITY = 1e-7
"""Scores of single seeds are stored as probabilities; nearer to 0 or 1 they have no logit."""


@dataclass(frozen=True)
class Decision:
    """Parameters (C,) of the categories, and the 95 % interval `doubt` (C, 2) of each threshold.

    Categories with `as_scored` keep their scores and the threshold 0.5.
    """

    categories: tuple[str, ...]
    slope: np.ndarray
    intercept: np.ndarray
    threshold: np.ndarray
    doubt: np.ndarray
    as_scored: np.ndarray

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits (B, C) float32 of logits (B, C) as scored."""
        changed = (self.slope * logits.astype(np.float64) + self.intercept).astype(np.float32)
        return np.where(self.as_scored, logits.astype(np.float32), changed)

    def scores(self, logits: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (B, C) float32 of logits and scores (B, C) as scored."""
        changed = expit(self.logits(logits).astype(np.float64)).astype(np.float32)
        return np.where(self.as_scored, scores.astype(np.float32), changed)

    def found(self, scores: np.ndarray) -> np.ndarray:
        """Whether each category is found, bool (B, C), from calibrated probabilities."""
        return np.asarray(scores > self.threshold.astype(np.float32))

    def doubtful(self, scores: np.ndarray) -> np.ndarray:
        """Whether a probability lies in the interval of its threshold: bool (B, C)."""
        low, high = self.doubt.astype(np.float32).T
        return np.asarray((scores >= low) & (scores <= high) & ~self.as_scored)

    def seeds(self, category: int, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (B, S) of one category's scores by seed."""
        if self.as_scored[category]:
            return scores
        known = logit(np.clip(scores.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))
        return expit(self.slope[category] * known + self.intercept[category]).astype(np.float32)

    def spread(self, category: int, scores: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Standard deviations (B,) over seeds, to first order, from scores and spread as scored."""
        if self.as_scored[category]:
            return spread
        p = np.clip(scores.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        q = expit(self.slope[category] * logit(p) + self.intercept[category])
        steepness = self.slope[category] * q * (1 - q) / (p * (1 - p))
        return np.minimum(steepness * spread, 0.5).astype(np.float32)
