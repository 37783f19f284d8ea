"""Scores by group: stream the tables of a scoring run, keep only what belongs to groups.

found = aggregate_scores("runs/scores", "studies.csv", "study_id", Pooling())
write_groups(found, "runs/studies")
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdmad import storage
from sdmad.errors import UserError
from sdmad.inputs.groups import GroupTable, load_groups
from sdmad.method.threshold import FINDING_THRESHOLD
from sdmad.scoring import tables
from sdmad.scoring.groups.matching import Matcher
from sdmad.scoring.groups.pooling import Pooled, Pooling, keep_highest
from sdmad.scoring.plan import open_plan
from sdmad.storage import run_record
from sdmad.words import counted

JOB = "aggregate"
# Images that are named for each finding of a group, those with the highest scores.
CARRIERS = 5
_CARRIER = pa.struct([("category", pa.string()), ("uri", pa.string()), ("score", pa.float32())])


@dataclass(frozen=True)
class Aggregated:
    """One row for each group, and what to tell the user.

    `empty` are the groups without a scored image. `metadata` says which scores the table is from.
    """

    table: pa.Table
    by: str
    images: int
    empty: list[str]
    metadata: dict[str, str]
    notices: list[str]

    @property
    def findings(self) -> dict[str, int]:
        """The number of groups with each finding, by category; most frequent first."""
        values = pc.value_counts(pc.list_flatten(self.table["findings"])).to_pylist()
        counts = {row["values"]: row["counts"] for row in values}
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def aggregate_scores(scores: str, groups_uri: str, by: str, pooling: Pooling) -> Aggregated:
    """Aggregate the scores of a run by the groups in the column `by` of a table.

    Memory grows with the rows of the group table, not with the images of the run. Raises
    `UserError` when the run or the table are missing, when no image matches, or when two images
    match one row.
    """
    metadata, planned = open_plan(scores)
    units = [unit.id for unit in planned]
    groups = load_groups(groups_uri, by, metadata["archive"])
    categories = metadata["categories"].split(";")
    _check_column(groups.by, categories)
    done = tables.done_units(scores)
    finished = [unit for unit in units if unit in done]
    given = metadata.get("thresholds")
    thresholds = np.array(given.split(";") if given else [FINDING_THRESHOLD], np.float32)
    collected = _Collected(groups, categories, pooling, thresholds)
    matcher = Matcher(scores, groups)
    for part in tables.read_parts(scores, "scores", finished, collected.columns):
        rows, numbers = matcher.match(part)
        if len(rows):
            collected.add(part.take(pa.array(rows)), numbers)
    matcher.finish(finished)
    unfinished = []
    if left := len(units) - len(finished):
        unfinished = [
            f"{scores} is not finished: {counted(left, 'work unit')} without scores, so groups may "
            "lack images"
        ]
    about = {
        "scores": scores,
        "scores_run": str(run_record.read_any(scores).get("run", "")),
        "scores_fingerprint": fingerprint(metadata, finished),
        "groups": groups_uri,
        "by": groups.by,
        "how": str(pooling),
    }
    kept = ["archive", "detector", "detector_uri", "catalog", "categories", "code_version"]
    kept += ["decision", "decision_uri", "thresholds"]
    return Aggregated(
        table=collected.table(matcher.failed, matcher.unknown),
        by=groups.by,
        images=int(collected.pooled.images.sum()),
        empty=[groups.groups[g] for g in np.flatnonzero(collected.pooled.images == 0)],
        metadata=about | {key: metadata[key] for key in kept if key in metadata},
        notices=[*unfinished, *matcher.notices],
    )


def fingerprint(metadata: dict[str, str], finished: list[str]) -> str:
    """16 hexadecimal digits that tell which scores a table is from: detector, decision file (if
    any) and finished units."""
    made = [metadata.get("detector", ""), metadata.get("decision", "")]
    text = "\n".join([*made, *sorted(finished)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_groups(found: Aggregated, output: str) -> str:
    """Write `groups.parquet` and `run.json` under `output`; returns the URI of the table."""
    uri = storage.join(output, "groups.parquet")
    storage.write_bytes(uri, tables.encode(found.table, found.metadata))
    record = {
        "job": JOB,
        "status": "finished",
        "finished": run_record.now(),
        **found.metadata,
        "images": found.images,
        "number_of_groups": found.table.num_rows,
        "findings": found.findings,
        "groups_without_images": len(found.empty),
        "notices": found.notices,
    }
    run_record.write_record(output, record)
    return uri


def _check_column(by: str, categories: list[str]) -> None:
    taken = ["images", "failed", "unknown", "anomaly_score", "findings", "carriers"]
    if by in [*taken, *(f"score_{name}" for name in categories)]:
        raise UserError(f"the table of groups has a column {by} of its own; rename that of --by")


@dataclass
class _Collected:
    """What is kept of the scores of each group."""

    groups: GroupTable
    categories: list[str]
    pooling: Pooling
    thresholds: np.ndarray
    pooled: Pooled = field(init=False)

    def __post_init__(self) -> None:
        count, kinds = len(self.groups), len(self.categories)
        self.pooled = Pooled(self.pooling, count, 1 + kinds)
        self.found = np.zeros((count, kinds), bool)
        self.kept = np.full((count, kinds, CARRIERS), -np.inf, np.float32)
        self.kept_uris = np.full(self.kept.shape, None, object)

    @property
    def score_columns(self) -> list[str]:
        return ["anomaly_score", *(f"score_{name}" for name in self.categories)]

    @property
    def columns(self) -> list[str]:
        return ["uri", "archive", "member", "findings", *self.score_columns]

    def add(self, part: pa.Table, groups: np.ndarray) -> None:
        """Add images (N rows), which are in `groups` (N,)."""
        scores = np.stack([part[name].to_numpy() for name in self.score_columns], axis=1)
        self.pooled.add(scores, groups)
        found = tables.finding_matrix(part["findings"], self.categories)
        np.logical_or.at(self.found, groups, found)
        carried = scores[:, 1:]
        if self.pooling.how == "maximum":
            carried = np.where(found, carried, -np.inf)
        uris = np.array(part["uri"].to_pylist(), object)
        keep_highest(self.kept, carried, groups, uris, self.kept_uris)

    def table(self, failed: np.ndarray, unknown: np.ndarray) -> pa.Table:
        """One row for each group; scores are null where no image of the group has any."""
        scores = self.pooled.scores()
        empty = self.pooled.images == 0
        found = self.found
        if self.pooling.how != "maximum":
            found = np.nan_to_num(scores[:, 1:], nan=-1) > self.thresholds
        columns: dict[str, pa.Array] = {
            self.groups.by: pa.array(self.groups.groups, pa.string()),
            "images": pa.array(self.pooled.images, pa.int64()),
            "failed": pa.array(self._count(failed), pa.int64()),
            "unknown": pa.array(self._count(unknown), pa.int64()),
        }
        for k, name in enumerate(self.score_columns):
            columns[name] = pa.array(scores[:, k], pa.float32(), mask=empty)
        named = [[self.categories[c] for c in np.flatnonzero(row)] for row in found]
        columns["findings"] = pa.array(named, pa.list_(pa.string()))
        carriers = [list(self._carriers(group, row)) for group, row in enumerate(found)]
        columns["carriers"] = pa.array(carriers, pa.list_(_CARRIER))
        return pa.table(columns)

    def _carriers(self, group: int, found: np.ndarray) -> Iterator[dict[str, Any]]:
        for c in np.flatnonzero(found):
            images = zip(self.kept_uris[group, c], self.kept[group, c], strict=True)
            for uri, score in images:
                if uri is not None:
                    yield {"category": self.categories[c], "uri": uri, "score": float(score)}

    def _count(self, mask: np.ndarray) -> np.ndarray:
        """The number of listed images in `mask` of each group."""
        groups = self.groups.of_image[mask]
        return np.bincount(groups[groups >= 0], minlength=len(self.groups))
