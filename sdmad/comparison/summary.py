"""Methods in pairs: differences on the same supports, with bootstrap intervals.

`results` has a row for each (method, shots, seed, protocol, metric) with `value`.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 10_000
VERDICTS = ("better", "tied", "worse")


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of paired differences: percentile bootstrap over supports.

    NaN for fewer than two. Resamples are the same in every call.
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

    Columns mean, std (n - 1), seeds; difference (reference minus method, paired over seeds), low,
    high and verdict: what the reference is, "better" or "worse" when the interval lacks 0, else
    "tied".
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
    """What an interval of (reference - method) says of the reference."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "tied"


def first_or_tied(summary: pd.DataFrame, reference: str) -> pd.DataFrame:
    """For each (shots, protocol, metric), whether no method beats the reference.

    Columns shots, protocol, metric, best (the method with the highest mean), first_or_tied: the
    reference has the highest mean, or its paired difference to the best method is tied.
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
