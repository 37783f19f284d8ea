"""The headline metrics of resampled test images, for all replicates of a bootstrap at once.

    weights = multiplicities[patient_of_image]
    resampled_metrics(truth, scores, anomaly, weights)["anomaly detection", "auroc"].std()

Each metric equals that of `sdmad.evaluation.protocols` on arrays that hold every image as often as
its replicate does. Images are sorted once for all replicates.

Shapes: N images, C categories, R replicates.
"""

import numpy as np

from sdmad.evaluation.protocols import LEAST_POSITIVES
from sdmad.method.threshold import FINDING_THRESHOLD


def resampled_metrics(
    truth: np.ndarray,
    scores: np.ndarray,
    anomaly: np.ndarray,
    weights: np.ndarray,
    thresholds: np.ndarray | float = FINDING_THRESHOLD,
) -> dict[tuple[str, str], np.ndarray]:
    """The metrics (R,) of all protocols, by (protocol, metric).

    `weights` are float32 (N, R): how often each replicate has each image. `truth` and `scores` are
    (N, C), `anomaly` (N,). A category is found above its threshold (C,). Means over categories are
    over those with at least five images in the test split itself. A replicate without images of
    such a category, or with nothing to compare them with, leaves this category out; NaN if all are.
    """
    abnormal = np.asarray(truth.any(axis=1))
    found = {
        ("anomaly detection", "auroc"): _auroc(anomaly, abnormal, ~abnormal, weights),
        ("anomaly detection", "average_precision"): _average_precision(anomaly, abnormal, weights),
    }
    counted = np.flatnonzero(truth.sum(axis=0) >= LEAST_POSITIVES)
    for kind in ("normal", "others"):
        columns = [
            _auroc(
                scores[:, c],
                truth[:, c],
                ~abnormal if kind == "normal" else abnormal & ~truth[:, c],
                weights,
            )
            for c in counted
        ]
        found["category discrimination", f"macro_{kind}"] = _mean(columns, weights.shape[1])
    findings = scores > thresholds
    return found | {
        ("multi-label prediction", metric): values
        for metric, values in _multilabel(truth, findings, counted, weights).items()
    }


def _auroc(
    score: np.ndarray, positive: np.ndarray, negative: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Share (R,) of the pairs of a positive and a negative image in which the positive is higher.

    Ties count half.
    """
    rows = _sorted_rows(score, negative)
    below = _cumulative(weights, rows)
    ranked, own = score[rows], score[positive]
    twice = below[np.searchsorted(ranked, own, "left")]
    twice += below[np.searchsorted(ranked, own, "right")]
    times = weights[positive]
    pairs = times.sum(axis=0, dtype=np.float64) * below[-1]
    twice *= times
    return _ratio(twice.sum(axis=0, dtype=np.float64), 2 * pairs)


def _average_precision(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean (R,) over positive images of the precision at their score."""
    rows = _sorted_rows(-score, np.ones_like(positive))
    hits = _sorted_rows(-score, positive)
    own = -score[positive]
    every = _cumulative(weights, rows)[np.searchsorted(-score[rows], own, "right")]
    right = _cumulative(weights, hits)[np.searchsorted(-score[hits], own, "right")]
    times = weights[positive]
    precision = right / np.maximum(every, 1)
    return _ratio(
        (times * precision).sum(axis=0, dtype=np.float64), times.sum(axis=0, dtype=np.float64)
    )


def _multilabel(
    truth: np.ndarray, found: np.ndarray, counted: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    union = (truth | found).sum(axis=1)
    common = (truth & found).sum(axis=1)
    of_image = np.stack(
        [
            np.where(union == 0, 1.0, common / np.maximum(union, 1)),
            (truth == found).mean(axis=1),
            (truth == found).all(axis=1),
        ],
        axis=1,
    )
    marked, named = truth[:, counted], found[:, counted]
    columns = np.hstack([of_image, marked & named, marked, named]).astype(np.float32)
    sums = columns.T @ weights
    total = weights.sum(axis=0, dtype=np.float64)
    hamming, loss, subset = (_ratio(sums[k], total) for k in range(3))
    hits, images, findings = np.split(sums[3:].astype(np.float64), 3)
    f1 = np.where(images > 0, 2 * hits / np.maximum(images + findings, 1), np.nan)
    return {
        "hamming_score": hamming,
        "one_minus_hamming_loss": loss,
        "subset_accuracy": subset,
        "macro_f1": _mean(list(f1), weights.shape[1]),
    }


def _sorted_rows(score: np.ndarray, among: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(among)
    return rows[np.argsort(score[rows], kind="stable")]


def _cumulative(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Weights (rows + 1, R) of all rows before each; exact in float32 up to 16 million images."""
    sums = np.zeros((len(rows) + 1, weights.shape[1]), np.float32)
    # Seven times as fast as np.cumsum along this axis.
    for before, row in enumerate(rows.tolist()):
        np.add(sums[before], weights[row], out=sums[before + 1])
    return sums


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(columns: list[np.ndarray], replicates: int) -> np.ndarray:
    """Mean (R,) of the columns that are finite."""
    if not columns:
        return np.full(replicates, np.nan)
    values = np.stack(columns)
    finite = np.isfinite(values)
    return _ratio(np.where(finite, values, 0).sum(axis=0), finite.sum(axis=0))
