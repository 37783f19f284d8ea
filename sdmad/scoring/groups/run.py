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
from sdmad.inputs.matching import NEAR_AMONG, SHOWN, Name, NameIndex, near_miss, shown, some
from sdmad.method.threshold import FINDING_THRESHOLD
from sdmad.scoring import tables
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
    collected = _Collected(scores, groups, categories, pooling)
    for part in tables.read_parts(scores, "scores", finished, collected.columns):
        collected.add(part)
    if not collected.seen.any():
        raise _nothing_matches(scores, groups, collected)
    failed = _failed(scores, groups, collected.seen, finished)
    about = {
        "scores": scores,
        "scores_run": str(_record(scores).get("run", "")),
        "scores_fingerprint": fingerprint(metadata, finished),
        "groups": groups_uri,
        "by": groups.by,
        "how": str(pooling),
    }
    kept = ("archive", "detector", "detector_uri", "catalog", "categories", "code_version")
    return Aggregated(
        table=collected.table(failed),
        by=groups.by,
        images=int(collected.pooled.images.sum()),
        empty=[groups.groups[g] for g in np.flatnonzero(collected.pooled.images == 0)],
        metadata=about | {key: metadata[key] for key in kept if key in metadata},
        notices=list(_notices(scores, collected, failed, len(units) - len(finished))),
    )


def fingerprint(metadata: dict[str, str], finished: list[str]) -> str:
    """16 hexadecimal digits that tell which scores a table is from: detector and finished units."""
    text = "\n".join([metadata.get("detector", ""), *sorted(finished)])
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
        "groups_without_images": found.empty,
        "notices": found.notices,
    }
    run_record.write_record(output, record)
    return uri


def _record(scores: str) -> dict[str, Any]:
    there = storage.exists(storage.join(scores, "run.json"))
    return run_record.read_record(scores) if there else {}


def _check_column(by: str, categories: list[str]) -> None:
    taken = ["images", "failed", "unknown", "anomaly_score", "findings", "carriers"]
    if by in [*taken, *(f"score_{name}" for name in categories)]:
        raise UserError(f"the table of groups has a column {by} of its own; rename that of --by")


@dataclass
class _Collected:
    """What is kept of the scores: of each group, and of each row of the group table a bit."""

    scores: str
    groups: GroupTable
    categories: list[str]
    pooling: Pooling
    seen: np.ndarray = field(init=False)
    pooled: Pooled = field(init=False)
    without: int = 0
    some_without: list[Name] = field(default_factory=list)
    some_scored: list[Name] = field(default_factory=list)

    def __post_init__(self) -> None:
        count, kinds = len(self.groups), len(self.categories)
        self.index = NameIndex(self.groups.names)
        self.seen = np.zeros(len(self.groups.names), bool)
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

    def add(self, part: pa.Table) -> None:
        """Add the score table of a unit."""
        rows, groups = self._match(part)
        if not len(rows):
            return
        part = part.take(pa.array(rows))
        scores = np.stack([part[name].to_numpy() for name in self.score_columns], axis=1)
        self.pooled.add(scores, groups)
        found = finding_matrix(part["findings"], self.categories)
        np.logical_or.at(self.found, groups, found)
        carried = scores[:, 1:]
        if self.pooling.how == "maximum":
            carried = np.where(found, carried, -np.inf)
        uris = np.array(part["uri"].to_pylist(), object)
        keep_highest(self.kept, carried, groups, uris, self.kept_uris)

    def _match(self, part: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a score table that are in a group, and the numbers of their groups."""
        names = list(zip(part["archive"].to_pylist(), part["member"].to_pylist(), strict=True))
        rows, groups = [], []
        for row, name in enumerate(names):
            listed = self.index.find(name)
            group = -1 if listed is None else int(self.groups.of_image[listed])
            if listed is not None:
                if self.seen[listed]:
                    raise self._twice(name)
                self.seen[listed] = True
            if group >= 0:
                rows.append(row)
                groups.append(group)
                continue
            self.without += 1
            self.some_without += [name] * (len(self.some_without) < SHOWN)
        self.some_scored += names[: NEAR_AMONG - len(self.some_scored)]
        return np.array(rows, int), np.array(groups, int)

    def _twice(self, name: Name) -> UserError:
        return UserError(
            f"{self.scores} has two scores for {shown(name)}, or for two names that match the same "
            f"row of {self.groups.uri}; `sdmad verify` says whether the archive has two images of "
            "this name"
        )

    def table(self, failed: np.ndarray) -> pa.Table:
        """One row for each group; scores are null where no image of the group has any."""
        scores = self.pooled.scores()
        empty = self.pooled.images == 0
        found = self.found
        if self.pooling.how != "maximum":
            found = np.nan_to_num(scores[:, 1:]) > FINDING_THRESHOLD
        columns: dict[str, pa.Array] = {
            self.groups.by: pa.array(self.groups.groups, pa.string()),
            "images": pa.array(self.pooled.images, pa.int64()),
            "failed": pa.array(self._count(failed), pa.int64()),
            "unknown": pa.array(self._count(~self.seen & ~failed), pa.int64()),
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


def finding_matrix(findings: pa.ChunkedArray, categories: list[str]) -> np.ndarray:
    """The column `findings` as bool (N, C)."""
    lists = findings.combine_chunks()
    found = np.zeros((len(lists), len(categories)), bool)
    rows = pc.list_parent_indices(lists).to_numpy()
    named = pc.index_in(pc.list_flatten(lists), pa.array(categories, pa.string()))
    found[rows, named.to_numpy()] = True
    return found


def _failed(scores: str, groups: GroupTable, seen: np.ndarray, units: list[str]) -> np.ndarray:
    """Which listed images are in the failures of the run, a mask."""
    failed = np.zeros(len(seen), bool)
    if seen.all():
        return failed
    index = NameIndex(groups.names)
    for part in tables.read_parts(scores, "failures", units, ("archive", "member")):
        names = zip(part["archive"].to_pylist(), part["member"].to_pylist(), strict=True)
        for name in names:
            if (row := index.find(name)) is not None:
                failed[row] = True
    return failed & ~seen


def _names(groups: GroupTable, mask: np.ndarray) -> list[Name]:
    return [groups.names[row] for row in np.flatnonzero(mask)]


def _nothing_matches(scores: str, groups: GroupTable, collected: _Collected) -> UserError:
    there = collected.some_scored
    return UserError(
        f"no image of {groups.uri} has a score in {scores}: the table names "
        f"{some(groups.names)}{near_miss(groups.names, there)}, and the scores "
        f"{some(there[:SHOWN]) or 'no images'}; give the table of the archive that was scored, "
        "with the same archive and member"
    )


def _notices(
    scores: str, collected: _Collected, failed: np.ndarray, unfinished: int
) -> Iterator[str]:
    groups = collected.groups
    if unfinished:
        yield (
            f"{scores} is not finished: {counted(unfinished, 'work unit')} without scores, so "
            "groups may lack images"
        )
    unknown = _names(groups, ~collected.seen & ~failed)
    if unknown:
        yield (
            f"{counted(len(unknown), 'image')} of {groups.uri} not in the tables of {scores}: "
            f"{some(unknown)}{near_miss(unknown, collected.some_scored)}"
        )
    if failed.any():
        lost = counted(int(failed.sum()), "image")
        yield f"{lost} of {groups.uri} in the failures: {some(_names(groups, failed))}"
    if collected.without:
        more = collected.without - len(collected.some_without)
        yield (
            f"{counted(collected.without, 'scored image')} without a group: "
            f"{some(collected.some_without)}" + (f" and {more} more" if more else "")
        )
