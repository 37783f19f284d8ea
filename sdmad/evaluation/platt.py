"""Probabilities from logits by a logistic regression on labelled images, drawn towards slope 1.

    slope, intercept = fit_probabilities(logits, shown, missing)

Platt (Advances in Large Margin Classifiers, 1999) fits p = sigmoid(slope logit + intercept). The
slope has a normal prior around 1, the logits as they are, because few images tell little about it.
The intercept has none, so the mean probability is the share of images with the category.

Shapes: R replicates, N images (or bins of images).
"""

import numpy as np
from scipy.special import expit

SLOPE_DEVIATION = 0.5
LEAST_SLOPE = 0.01
STEPS, HALVINGS = 50, 30


def fit_probabilities(
    logits: np.ndarray, shown: np.ndarray, missing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts, each (R,), by Newton's method.

    At each of the logits (N,), `shown` (R, N) images have the category and `missing` (R, N) have
    not. A slope is at least `LEAST_SLOPE`, so the order of images stays. NaN for replicates without
    images on one side.
    """
    some = (shown.sum(axis=1) > 0) & (missing.sum(axis=1) > 0)
    shown, missing = shown.astype(np.float64), missing.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        start = np.log(shown.sum(axis=1) / missing.sum(axis=1)) - logits.mean()
    slope, intercept = np.ones(len(shown)), np.where(some, start, 0.0)
    value = _loss(logits, shown, missing, slope, intercept)
    precision = SLOPE_DEVIATION**-2
    for _ in range(STEPS):
        p = expit(slope[:, None] * logits + intercept[:, None])
        rest = (shown + missing) * p - shown
        curve = (shown + missing) * p * (1 - p)
        g_slope = rest @ logits + precision * (slope - 1)
        g_intercept = rest.sum(axis=1)
        a, b, c = curve @ logits**2 + precision, curve @ logits, curve.sum(axis=1) + 1e-9
        determinant = a * c - b * b
        steps = (c * g_slope - b * g_intercept, a * g_intercept - b * g_slope)
        size = np.ones(len(slope))
        for _ in range(HALVINGS):
            tried = [
                old - size * s / determinant
                for old, s in zip((slope, intercept), steps, strict=True)
            ]
            reached = _loss(logits, shown, missing, *tried)
            worse = reached > value
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        better = reached <= value
        slope, intercept = np.where(better, tried[0], slope), np.where(better, tried[1], intercept)
        value, before = np.where(better, reached, value), value
        if np.all(before - value < 1e-9 * (1 + np.abs(value))):
            break
    if (slope < LEAST_SLOPE).any():
        flat = np.maximum(slope, LEAST_SLOPE)
        intercept = np.where(
            slope < LEAST_SLOPE, _intercepts(logits, shown, missing, flat), intercept
        )
        slope = flat
    return np.where(some, slope, np.nan), np.where(some, intercept, np.nan)


def _loss(
    logits: np.ndarray,
    shown: np.ndarray,
    missing: np.ndarray,
    slope: np.ndarray,
    intercept: np.ndarray,
) -> np.ndarray:
    """Minus the log posterior (R,)."""
    z = slope[:, None] * logits + intercept[:, None]
    loss = (shown * np.logaddexp(0, -z) + missing * np.logaddexp(0, z)).sum(axis=1)
    return np.asarray(loss + 0.5 * ((slope - 1) / SLOPE_DEVIATION) ** 2)


def _intercepts(
    logits: np.ndarray, shown: np.ndarray, missing: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """Intercepts (R,) with which mean probabilities are the shares of images, by bisection."""
    wanted = shown.sum(axis=1)
    low, high = np.full(len(slope), -60.0), np.full(len(slope), 60.0)
    for _ in range(80):
        middle = (low + high) / 2
        p = expit(slope[:, None] * logits + middle[:, None])
        above = ((shown + missing) * p).sum(axis=1) > wanted
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
