"""Comparison in pairs: differences of two methods on the same supports, with intervals.

`results` has a row for each (method, shots, seed, protocol, metric) with `value`.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 10_000
VERDICTS = ("better", "tied", "worse")


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, by percentile bootstrap over supports.

    NaN for fewer than two differences. Every call draws the same resamples.
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        return float("nan"), float("nan")
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found: Any = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def summarise_methods(results: pd.DataFrame, reference: str) -> pd.DataFrame:
    """A row for each (method, shots, protocol, metric).

    Columns are mean, std (n - 1) and seeds of the method, the mean `difference` of reference minus
    method over the seeds of both, `low` and `high` of its interval, and the `verdict` on the
    reference.
    """
    keys = ["shots", "protocol", "metric"]
    ours = results[results.method == reference].rename(columns={"value": "ours"})
    both = results.merge(ours[[*keys, "seed", "ours"]], on=[*keys, "seed"])
    rows = []
    for key, group in both.groupby(["method", *keys], sort=False):
        method, shots, protocol, metric = key
        difference = (group.ours - group.value).to_numpy()
        low, high = paired_interval(difference)
        rows.append(
            {
                "method": method,
                "shots": shots,
                "protocol": protocol,
                "metric": metric,
                "mean": group.value.mean(),
                "std": group.value.std(ddof=1) if len(group) > 1 else 0.0,
                "seeds": len(group),
                "difference": difference.mean(),
                "low": low,
                "high": high,
                "verdict": verdict(low, high),
            }
        )
    return pd.DataFrame(rows)


def verdict(low: float, high: float) -> str:
    """The verdict on the reference from the interval of (reference - method).

    "tied" if the interval contains 0, else "better" or "worse".
    """
    if low > 0:
        return "better"
    return "worse" if high < 0 else "tied"


def first_or_tied(summary: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Whether the reference is first or tied, for each (shots, protocol, metric).

    Columns are shots, protocol, metric, `best` (the method with the highest mean) and
    `first_or_tied`: the reference is the best method, or not "worse" than it in the paired
    comparison.
    """
    rows = []
    for key, group in summary.groupby(["shots", "protocol", "metric"], sort=False):
        best = group.sort_values("mean", kind="stable").iloc[-1]
        rows.append(
            {
                "shots": key[0],
                "protocol": key[1],
                "metric": key[2],
                "best": best.method,
                "first_or_tied": bool(best.method == reference or best.verdict != "worse"),
            }
        )
    return pd.DataFrame(rows)
