"""Comparison in pairs: differences of two methods on the same supports, with verdicts.

`results` has a row for each (method, shots, seed, protocol, metric) with `value`.
"""

from typing import Any

import numpy as np
import pandas as pd

from sdmad.comparison.bootstrap import Replicates
from sdmad.evaluation.statistics import (
    ROUNDING,
    WORSE,
    Estimate,
    judge,
    over_seeds,
    over_seeds_and_patients,
)

RANKING = ["shots", "protocol", "metric"]


def summarise_methods(
    results: pd.DataFrame, reference: str, replicates: Replicates | None = None
) -> pd.DataFrame:
    """A row for each (method, shots, protocol, metric).

    - `mean`, `std` (n - 1) and `seeds` of the method; `mean_low` and `mean_high` of the 95 %
      interval of its mean
    - the mean `difference` of reference minus method over the seeds of both; `low` and `high` of
      its 95 % interval; `p` and `corrected_p` (Holm, over all rows); the `detectable` difference;
      the `verdict` on the reference

    Intervals and p values are Student's over seeds, or with `replicates` those of the two-level
    bootstrap. Rows of the reference itself have no p value and no verdict.
    """
    ours = results[results.method == reference].rename(columns={"value": "ours"})
    both = results.merge(ours[[*RANKING, "seed", "ours"]], on=[*RANKING, "seed"])
    rows, differences = [], []
    groups: Any = both.groupby(["method", *RANKING], sort=False)
    for (method, *ranking), group in groups:
        value = _estimate(group.value.to_numpy(), replicates, ranking, method)
        low, high = np.clip(value.interval, 0.0, 1.0).tolist()
        rows.append(
            {
                "method": method,
                **dict(zip(RANKING, ranking, strict=True)),
                "mean": value.mean,
                "std": group.value.std(ddof=1) if len(group) > 1 else 0.0,
                "seeds": len(group),
                "mean_low": low,
                "mean_high": high,
            }
        )
        if method != reference:
            change = (group.ours - group.value).to_numpy()
            differences.append(_estimate(change, replicates, ranking, reference, method))
    judged = iter(judge(differences))
    for row in rows:
        if row["method"] == reference:
            row |= {"difference": 0.0, "low": np.nan, "high": np.nan, "p": np.nan}
            row |= {"corrected_p": np.nan, "detectable": np.nan, "verdict": ""}
            continue
        found = next(judged)
        row |= {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}
        row |= {"corrected_p": found.corrected_p, "detectable": found.detectable}
        row["verdict"] = found.verdict
    return pd.DataFrame(rows)


def _estimate(
    values: np.ndarray,
    replicates: Replicates | None,
    ranking: list,
    method: str,
    minus: str | None = None,
) -> Estimate:
    """The mean of `values` (n,) of seeds: a metric of `method`, or its difference to `minus`."""
    if replicates is None:
        return over_seeds(values)
    means = replicates.means[(method, *ranking)]
    if minus is not None:
        means = means - replicates.means[(minus, *ranking)]
    return over_seeds_and_patients(values, means, replicates.patients)


def num_comparisons(summary: pd.DataFrame) -> int:
    """The number of comparisons that the verdicts of a summary are corrected for."""
    return int(summary.p.notna().sum())


def rank_reference(summary: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Where the reference stands in each ranking of all methods: (shots, protocol, metric).

    Columns are shots, protocol, metric; `best`, the method with the highest mean; `methods`, their
    number; `rank` of the reference by its mean, 1 for the highest, where equal means share the
    better rank; `first_or_not_distinguishable`: the reference is the best method, or not "worse"
    than it. Metrics that are not defined on this test split have no ranking.
    """
    rows = []
    for key, group in summary[summary["mean"].notna()].groupby(RANKING, sort=False):
        own = group[group.method == reference]
        if own.empty:
            continue
        best = group.sort_values("mean", kind="stable").iloc[-1]
        rank = 1 + int((group["mean"] > own["mean"].item() + ROUNDING).sum())
        rows.append(
            {
                **dict(zip(RANKING, key, strict=True)),
                "best": reference if rank == 1 else best.method,
                "methods": len(group),
                "rank": rank,
                "first_or_not_distinguishable": rank == 1 or best.verdict != WORSE,
            }
        )
    columns = [*RANKING, "best", "methods", "rank", "first_or_not_distinguishable"]
    return pd.DataFrame(rows, columns=columns)
