"""What probabilities and decisions are worth on test images: calibration, operating points,
confusion.

Everything here describes. A threshold or a correction that is found here is read off the test
images and used by nothing else. Shapes: N images, C categories, B bins.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.calibration import calibration_curve

from sdmad.evaluation.protocols import LEAST_POSITIVES

BINS = 10
SPECIFICITY = 0.9
LEAST_NEGATIVES = 10


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: for each bin that has images, their mean probability, the share of
    them that have the category, and their number, each (B,).

    `error` is the expected calibration error: mean distance of the two, weighted by images.
    """

    predicted: np.ndarray
    observed: np.ndarray
    images: np.ndarray

    @property
    def error(self) -> float:
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.images))


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """The reliability diagram of probabilities (N,) against truth (N,), in ten bins of one width.

    Raises `ValueError` without any image.
    """
    probabilities = np.asarray(probabilities, float)
    observed, predicted = calibration_curve(truth, probabilities, n_bins=BINS, pos_label=True)
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    images = np.bincount(np.searchsorted(inner, probabilities), minlength=BINS)
    return Reliability(predicted, observed, images[images > 0])


def at_prevalence(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities that hold where a category is as frequent as its absence, corrected for how
    often the images have it: (N, C) by categories of `truth` (N, C), odds times prevalence odds."""
    share = truth.mean(axis=0)
    with_category = probabilities * share
    without = (1 - probabilities) * (1 - share)
    total = with_category + without
    return np.where(total > 0, with_category / np.where(total > 0, total, 1), share)


@dataclass(frozen=True)
class OperatingPoint:
    """Sensitivity at a given specificity, and the threshold it takes (found where above it)."""

    sensitivity: float
    threshold: float


def operating_point(
    truth: np.ndarray, scores: np.ndarray, specificity: float = SPECIFICITY
) -> OperatingPoint:
    """The lowest threshold on scores (N,) at which at least `specificity` of the images without a
    category are not found, and the share of those with it (`truth` (N,)) that then are.

    NaN for fewer than five images with the category or ten without.
    """
    positive, negative = scores[truth], scores[~truth]
    if len(positive) < LEAST_POSITIVES or len(negative) < LEAST_NEGATIVES:
        return OperatingPoint(float("nan"), float("nan"))
    threshold = np.quantile(negative, specificity, method="inverted_cdf")
    return OperatingPoint(float((positive > threshold).mean()), float(threshold))


@dataclass(frozen=True)
class Confusion:
    """Rows are normal images and those with one category alone, C + 1 of them.

    `images` (C + 1,) is their number, `shares` (C + 1, C + 1) the share of them that are found to
    be each category, and in the last column that have no finding: NaN for fewer than five images.
    An image may have several findings, so a row may sum to more than one.
    """

    images: np.ndarray
    shares: np.ndarray


def confusion(truth: np.ndarray, found: np.ndarray) -> Confusion:
    """What is found in place of what, of labels and findings (N, C)."""
    groups = [~truth.any(axis=1)]
    groups += [truth[:, c] & (truth.sum(axis=1) == 1) for c in range(truth.shape[1])]
    outcomes = np.column_stack([found, ~found.any(axis=1)])
    images = np.array([group.sum() for group in groups])
    shares = np.full((len(groups), outcomes.shape[1]), np.nan)
    for row, group in enumerate(groups):
        if images[row] >= LEAST_POSITIVES:
            shares[row] = outcomes[group].mean(axis=0)
    return Confusion(images, shares)
