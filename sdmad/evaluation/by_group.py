"""The three protocols on groups of test images: patients, studies, ...

    grouped = measure_groups(test, "labels.csv", "patient_id", Pooling())
    grouped.rows()[0].ensemble, grouped.rows()[0].low, grouped.rows()[0].high

The label of a group is the union of the labels of its test images, its scores are made from those
of its scored test images (`sdmad.scoring.groups.pooling`).
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.errors import UserError
from sdmad.evaluation.measure import ENSEMBLE, HEADLINES, ScoredTest, measure, over_seeds
from sdmad.evaluation.protocols import Summary
from sdmad.evaluation.resampled import resampled_metrics
from sdmad.inputs.groups import GroupTable, load_groups
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.inputs.matching import SHOWN
from sdmad.logs import Notice
from sdmad.scoring.groups.pooling import Pooling
from sdmad.words import counted

REPLICATES = 1000
VALUES_AT_ONCE = 1 << 22  # Weights of one block of replicates.


@dataclass(frozen=True)
class Row:
    """A headline metric: over seeds, of the ensemble, and the ensemble's interval over groups."""

    protocol: str
    name: str
    seeds: Summary
    ensemble: float
    low: float
    high: float


@dataclass(frozen=True)
class Grouped:
    """The metrics by the groups in the column `by` of the label table.

    `test` has a row for each group in place of an image; `metrics` are those of
    `sdmad.evaluation.measure.measure`. `intervals` are 95 % intervals of the ensemble's headline
    metrics, from bootstrap `replicates` over groups.
    """

    by: str
    pooling: Pooling
    test: ScoredTest
    metrics: pd.DataFrame
    intervals: dict[tuple[str, str], tuple[float, float]]
    replicates: int

    def rows(self) -> list[Row]:
        """The headline metrics."""
        summary = over_seeds(self.metrics)
        single = self.metrics[(self.metrics.category == "") & (self.metrics.seed == ENSEMBLE)]
        ensemble = single.set_index(["protocol", "metric"]).value
        return [
            Row(key[0], name, summary[key], float(ensemble[key]), *self.intervals[key])
            for key, name in HEADLINES.items()
        ]

    def record(self) -> dict[str, Any]:
        """For `run.json`: numbers that are not finite become None."""
        values = {
            f"{row.protocol}: {row.name}": {
                "mean": row.seeds.mean,
                "std": row.seeds.std,
                "ensemble": row.ensemble,
                "low": row.low,
                "high": row.high,
            }
            for row in self.rows()
        }
        return {
            "by": self.by,
            "how": str(self.pooling),
            "groups": len(self.test.table),
            "groups_without_score": self.test.missing,
            "metrics": {
                name: {k: v if math.isfinite(v) else None for k, v in found.items()}
                for name, found in values.items()
            },
        }


def measure_groups(test: ScoredTest, labels_uri: str, by: str, pooling: Pooling) -> Grouped:
    """Measure a scored test by groups. Raises `UserError` if the label table has no column `by`."""
    table = load_groups(labels_uri, by, test.metadata["archive"])
    labels = load_labels(labels_uri, test.table.categories, test.metadata["archive"])
    grouped = group_test(test, labels, table, pooling)
    return Grouped(
        by=table.by,
        pooling=pooling,
        test=grouped,
        metrics=measure(grouped),
        intervals=intervals(grouped, REPLICATES),
        replicates=REPLICATES,
    )


def group_test(
    test: ScoredTest, labels: LabelTable, table: GroupTable, pooling: Pooling
) -> ScoredTest:
    """The scored test with groups in place of images; `rows` is empty.

    `labels` and `table` are of one file, row by row. Groups without a scored test image are left
    out and counted in `missing`.
    """
    count, tested = len(table), labels.split == "test"
    row_of = {name: row for row, name in enumerate(table.names)}
    names = zip(test.table.archive.tolist(), test.table.member.tolist(), strict=True)
    of_scored = table.of_image[[row_of[name] for name in names]]
    inside = of_scored >= 0
    if not inside.any():
        raise UserError(f"no scored test image of {table.uri} has a {table.by}")
    groups = of_scored[inside]

    def pooled(values: np.ndarray) -> np.ndarray:
        flat = values[inside].reshape(inside.sum(), -1)
        return pooling.of(flat, groups, count).reshape(count, *values.shape[1:])

    truth = np.zeros((count, len(labels.categories)), bool)
    named = tested & (table.of_image >= 0)
    np.logical_or.at(truth, table.of_image[named], labels.labels[named])
    listed = np.bincount(table.of_image[named], minlength=count) > 0
    scored = np.bincount(groups, minlength=count) > 0
    called = np.array(table.groups, object)
    return replace(
        test,
        table=LabelTable(
            archive=np.full(int(scored.sum()), "", object),
            member=called[scored],
            patient=called[scored],
            split=np.full(int(scored.sum()), "test", object),
            labels=truth[scored],
            categories=labels.categories,
        ),
        scores=pooled(test.scores)[scored],
        anomaly=pooled(test.anomaly)[scored],
        seeds=pooled(test.seeds)[scored],
        anomaly_seeds=pooled(test.anomaly_seeds)[scored],
        rows=pa.table({}),
        missing=int((listed & ~scored).sum()),
        notices=list(_notices(table, tested, called[listed & ~scored].tolist())),
    )


def _notices(table: GroupTable, tested: np.ndarray, lost: list[str]) -> Iterator[Notice]:
    without = int((tested & (table.of_image < 0)).sum())
    if without:
        yield Notice(f"{counted(without, 'test image')} without a {table.by} left out")
    if lost:
        more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
        names = ", ".join(lost[:SHOWN])
        text = f"{counted(len(lost), 'group')} without a scored test image left out"
        yield Notice(text, f"{text}: {names}{more}")
    both = set(table.of_image[tested].tolist()) & set(table.of_image[~tested].tolist()) - {-1}
    if both:
        groups = counted(len(both), "group")
        yield Notice(f"{groups} with images in other splits too; only test images count")


def intervals(test: ScoredTest, replicates: int) -> dict[tuple[str, str], tuple[float, float]]:
    """95 % intervals of the ensemble's headline metrics: percentiles of bootstrap replicates, each
    with as many rows of the test as there are. Every call draws the same."""
    count = len(test.table)
    random = np.random.default_rng((2, count))
    together = max(1, VALUES_AT_ONCE // count)
    blocks = []
    for start in range(0, replicates, together):
        drawn = [
            np.bincount(random.integers(count, size=count), minlength=count)
            for _ in range(min(together, replicates - start))
        ]
        weights = np.stack(drawn, axis=1).astype(np.float32)
        blocks.append(
            resampled_metrics(test.truth, test.scores, test.anomaly, weights, test.thresholds)
        )
    found = {}
    for key in HEADLINES:
        values = np.concatenate([block[key] for block in blocks])
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (math.nan, math.nan)
        found[key] = (float(low), float(high))
    return found


def write_group_metrics(grouped: Grouped, output: str) -> None:
    """Write all metrics by group, one row each, to `protocols_by_group.parquet`."""
    low, high = ({key: bounds[k] for key, bounds in grouped.intervals.items()} for k in (0, 1))
    table = grouped.metrics.copy()
    headline = (table.seed == ENSEMBLE) & (table.category == "")
    keys = list(zip(table.protocol, table.metric, strict=True))
    for name, bounds in (("low", low), ("high", high)):
        values = [bounds.get(key, math.nan) for key in keys]
        table[name] = np.where(headline, values, math.nan)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    about = {"sdmad.by": grouped.by, "sdmad.how": str(grouped.pooling)}
    sink = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(about), sink)
    storage.write_bytes(storage.join(output, "protocols_by_group.parquet"), sink.getvalue())
