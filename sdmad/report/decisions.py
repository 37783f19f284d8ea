"""Quality of probabilities and decisions on test images: calibration, operating points, confusion.

Descriptive only: thresholds and corrections are computed from the test images and only shown in
the report. Shapes: N images, C categories, B bins.
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
    """A reliability diagram over the bins with images, each array (B,).

    `predicted` is the mean probability, `observed` the share of images with the category, `images`
    the number of images. `error` is the expected calibration error: mean distance between
    `predicted` and `observed`, weighted by images.
    """

    predicted: np.ndarray
    observed: np.ndarray
    images: np.ndarray

    @property
    def error(self) -> float:
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.images))


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """The reliability diagram of probabilities (N,) against truth (N,), in ten bins of equal width.

    Raises `ValueError` when there are no images.
    """
    probabilities = np.asarray(probabilities, float)
    observed, predicted = calibration_curve(truth, probabilities, n_bins=BINS, pos_label=True)
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    images = np.bincount(np.searchsorted(inner, probabilities), minlength=BINS)
    return Reliability(predicted, observed, images[images > 0])


def at_prevalence(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) corrected from a prevalence of 1/2 to each category's share in `truth`
    (N, C): the odds are multiplied by the odds of the share."""
    share = truth.mean(axis=0)
    with_category = probabilities * share
    without = (1 - probabilities) * (1 - share)
    total = with_category + without
    return np.where(total > 0, with_category / np.where(total > 0, total, 1), share)


@dataclass(frozen=True)
class OperatingPoint:
    """Sensitivity at a given specificity, and its threshold; scores above it count as found."""

    sensitivity: float
    threshold: float


def operating_point(
    truth: np.ndarray, scores: np.ndarray, specificity: float = SPECIFICITY
) -> OperatingPoint:
    """The lowest threshold on scores (N,) that reaches the specificity, and its sensitivity.

    `truth` (N,) is True for images with the category. NaN with fewer than five images with the
    category or ten without.
    """
    positive, negative = scores[truth], scores[~truth]
    if len(positive) < LEAST_POSITIVES or len(negative) < LEAST_NEGATIVES:
        return OperatingPoint(float("nan"), float("nan"))
    threshold = np.quantile(negative, specificity, method="inverted_cdf")
    return OperatingPoint(float((positive > threshold).mean()), float(threshold))


@dataclass(frozen=True)
class Confusion:
    """Findings by true group. The C + 1 groups are normal images, then images with one category
    alone.

    `images` (C + 1,) is the number of images. `shares` (C + 1, C + 1) is the share of images in
    which each category is found, and in the last column the share without finding; NaN with fewer
    than five images. An image may have several findings, so a row may sum to more than 1.
    """

    images: np.ndarray
    shares: np.ndarray


def confusion(truth: np.ndarray, found: np.ndarray) -> Confusion:
    """The confusion of labels and findings, both bool (N, C)."""
    groups = [~truth.any(axis=1)]
    groups += [truth[:, c] & (truth.sum(axis=1) == 1) for c in range(truth.shape[1])]
    outcomes = np.column_stack([found, ~found.any(axis=1)])
    images = np.array([group.sum() for group in groups])
    shares = np.full((len(groups), outcomes.shape[1]), np.nan)
    for row, group in enumerate(groups):
        if images[row] >= LEAST_POSITIVES:
            shares[row] = outcomes[group].mean(axis=0)
    return Confusion(images, shares)
