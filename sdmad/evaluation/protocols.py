"""The three protocols, on arrays. Metrics are scikit-learn's where it has them.

[paper] Three protocols; named are category-wise discrimination, and multi-label prediction with
Hamming score and subset accuracy. [choice] The definitions (docs/method.md).

Shapes: N images, C categories. `truth` y is bool (N, C), all False for a normal image.
`probabilities` p are (N, C) in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn import metrics

from sdmad.method.threshold import FINDING_THRESHOLD

LEAST_POSITIVES = 5


def anomaly_detection(truth: np.ndarray, anomaly: np.ndarray) -> dict[str, float]:
    """Protocol 1: AUROC and average precision of anomaly scores (N,), anomalies against normal."""
    abnormal = np.asarray(truth.any(axis=1))
    return {
        "auroc": auroc(abnormal, anomaly),
        "average_precision": float(metrics.average_precision_score(abnormal, anomaly)),
    }


def category_discrimination(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Protocol 2: AUROC (C,) of p_c for images with c, against two groups of other images.

    `normal`: against normal images. `others`: against images with other anomalies only. NaN if
    fewer than five images show c, or the other group is empty.
    """
    normal = ~truth.any(axis=1)
    columns: dict[str, list[float]] = {"normal": [], "others": []}
    for c in range(truth.shape[1]):
        positive = truth[:, c]
        for kind, negative in (("normal", normal), ("others", ~positive & ~normal)):
            rows = positive | negative
            enough = positive.sum() >= LEAST_POSITIVES and negative.any()
            value = auroc(positive[rows], probabilities[rows, c]) if enough else np.nan
            columns[kind].append(value)
    return {kind: np.array(values) for kind, values in columns.items()}


def multilabel_prediction(
    truth: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray | float = FINDING_THRESHOLD
) -> dict[str, float]:
    """Protocol 3: the findings Y^ (p > 0.5, or > thresholds (C,)) against the true categories Y.

    Hamming score is the mean of |Y n Y^| / |Y u Y^|, 1 when both are empty. The others are
    1 - Hamming loss, subset accuracy, and macro F1 over categories with at least five images.
    """
    found = probabilities > thresholds
    union = (truth | found).sum(axis=1)
    common = (truth & found).sum(axis=1)
    hamming = np.where(union == 0, 1.0, common / np.maximum(union, 1))
    counted = truth.sum(axis=0) >= LEAST_POSITIVES
    f1 = np.array(
        [metrics.f1_score(y, p, zero_division=0.0) for y, p in zip(truth.T, found.T, strict=True)]
    )
    return {
        "hamming_score": float(hamming.mean()),
        "one_minus_hamming_loss": float((truth == found).mean()),
        "subset_accuracy": float((truth == found).all(axis=1).mean()),
        "macro_f1": float(np.mean(f1[counted])) if counted.any() else float("nan"),
    }


@dataclass(frozen=True)
class Summary:
    """A metric over seeds: mean, standard deviation, and the 95 % interval of the mean.

    Of fewer than two seeds only the mean is known; the others are NaN. All are for a metric that
    the images do not define.
    """

    mean: float
    std: float
    low: float
    high: float
    seeds: int


def summarise(values: np.ndarray) -> Summary:
    """Mean, standard deviation (n - 1) and Student's 95 % interval of the mean, over seeds.

    Values are shares; the interval is cut at 0 and 1.
    """
    values = np.asarray(values, float)
    mean, count = float(values.mean()), len(values)
    if count < 2 or np.isnan(mean):
        return Summary(mean, float("nan"), float("nan"), float("nan"), count)
    std = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * std / np.sqrt(count)
    return Summary(mean, std, max(0.0, mean - half), min(1.0, mean + half), count)


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """AUROC of scores (N,); NaN if all images are `positive` (N,), or none."""
    if positive.all() or not positive.any():
        return float("nan")
    return float(metrics.roc_auc_score(positive, score))
