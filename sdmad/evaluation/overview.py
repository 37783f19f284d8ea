"""What a scoring run found, without labels: counts over its tables, read once, in constant memory.

    overview = overview_of("s3://bucket/scores")
    overview.images, overview.found, overview.together, overview.groups.compared()

Shapes: N images of a part, C categories, S seeds.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from sdmad.evaluation.sites import Groups
from sdmad.method.threshold import FINDING_THRESHOLD
from sdmad.scoring import tables
from sdmad.scoring.plan import open_plan

READERS = 8
BINS = 50
SHOWN = 8
"""Images of each gallery."""
MOST_REASONS = 200
EXAMPLES = 3
LEAST_UNITS = 10
Place = tuple[str, int]
"""The row of an image: its unit, and its position in the unit's table."""


@dataclass
class Reason:
    """A kind of failure: how many images, and the first names (archive, member) with the reason."""

    images: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


class Best:
    """The places of the largest keys of a stream, at most `SHOWN`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, int]] = []

    def add(self, keys: np.ndarray, unit: str) -> None:
        """Add keys (N,) of the rows of a unit; -inf for rows that do not count."""
        least = self._heap[0][0] if len(self._heap) == SHOWN else -np.inf
        rows = np.flatnonzero(keys > least)
        if len(rows) > SHOWN:
            rows = rows[np.argsort(-keys[rows], kind="stable")[:SHOWN]]
        for row in rows.tolist():
            entry = (float(keys[row]), unit, row)
            if len(self._heap) < SHOWN:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heappushpop(self._heap, entry)

    @property
    def places(self) -> list[Place]:
        """The places, largest key first."""
        ordered = sorted(self._heap, key=lambda entry: (-entry[0], *entry[1:]))
        return [(unit, row) for _, unit, row in ordered]


class Overview:
    """Counts of a scoring run.

    `found` and `uncertain` (C,) are numbers of images; `together` (C, C) have both categories
    found, `alone` (C,) only this one, `any` one or more, `several` two or more. `anomaly` and
    `scores` (C, BINS) are histograms over 0 to 1. `by_seed` (C, S) are findings of single seeds,
    where tables have these; otherwise S = 0.
    """

    def __init__(self, metadata: dict[str, str]) -> None:
        self.metadata = metadata
        self.categories = tuple(metadata["categories"].split(";"))
        count = len(self.categories)
        given = metadata.get("thresholds")
        texts = given.split(";") if given else [str(FINDING_THRESHOLD)] * count
        self.thresholds = np.array(texts, np.float32)
        self.units_planned = self.units = self.images = self.failures = 0
        self.any = self.several = self.doubted = 0
        self.found, self.uncertain, self.alone = (np.zeros(count, np.int64) for _ in range(3))
        self.together = np.zeros((count, count), np.int64)
        self.anomaly = np.zeros(BINS, np.int64)
        self.scores = np.zeros((count, BINS), np.int64)
        self.by_seed = np.zeros((count, 0), np.int64)
        self.groups = Groups(count)
        self.reasons: dict[tuple[str, str], Reason] = {}
        self.most_anomalous, self.most_uncertain, self.random = Best(), Best(), Best()
        # Over units: sums of n^2, and of x^2 and x n for the findings x of each category and any.
        self._squares = 0.0
        self._products = np.zeros((2, count + 1))

    def add(self, unit: str, rows: pa.Table, failures: pa.Table) -> None:
        """Add the tables of a finished unit."""
        self.units += 1
        self._add_failures(failures)
        if rows.num_rows == 0:
            return
        found = tables.finding_matrix(rows["findings"], self.categories)
        doubts = tables.finding_matrix(rows["uncertain"], self.categories)
        anomaly = rows["anomaly_score"].to_numpy()
        scores = np.stack([rows[f"score_{c}"].to_numpy() for c in self.categories], axis=1)
        several = found.sum(axis=1)
        with_any = np.column_stack([found, several > 0]).sum(axis=0).astype(float)
        self.images += len(found)
        self.any += int((several > 0).sum())
        self.several += int((several > 1).sum())
        self.doubted += int(doubts.any(axis=1).sum())
        self.found += found.sum(axis=0)
        self.alone += found[several == 1].sum(axis=0)
        self.uncertain += doubts.sum(axis=0)
        self.together += found.T.astype(np.int64) @ found
        self._squares += float(len(found)) ** 2
        self._products += np.stack([with_any**2, with_any * len(found)])
        self.anomaly += _histogram(anomaly)
        for c in range(len(self.categories)):
            self.scores[c] += _histogram(scores[:, c])
        self._add_seeds(rows)
        self.groups.add(_group_names(rows), anomaly, found)
        self.most_anomalous.add(anomaly.astype(float), unit)
        margins = np.where(doubts, np.abs(scores - self.thresholds), np.inf).min(axis=1)
        self.most_uncertain.add(-margins.astype(float), unit)
        draw = np.random.default_rng(int(unit, 16)).random(len(found))
        self.random.add(draw, unit)

    def _add_seeds(self, rows: pa.Table) -> None:
        for c, name in enumerate(self.categories):
            if f"seeds_{name}" not in rows.column_names:
                return
            values = rows[f"seeds_{name}"].combine_chunks()
            seeds = values.flatten().to_numpy().reshape(-1, values.type.list_size)
            if self.by_seed.shape[1] != seeds.shape[1]:
                self.by_seed = np.zeros((len(self.categories), seeds.shape[1]), np.int64)
            self.by_seed[c] += (seeds > self.thresholds[c]).sum(axis=0)

    def _add_failures(self, failures: pa.Table) -> None:
        self.failures += failures.num_rows
        if failures.num_rows:
            self.groups.add_failures(_group_names(failures))
        for row in failures.to_pylist():
            key = row["stage"], row["reason"].partition(":")[0]
            if key not in self.reasons and len(self.reasons) >= MOST_REASONS:
                key = row["stage"], "other reasons"
            reason = self.reasons.setdefault(key, Reason())
            reason.images += 1
            if len(reason.examples) < EXAMPLES:
                reason.examples.append((row["archive"], row["member"], row["reason"]))

    def interval(self, category: int) -> tuple[float, float]:
        """The 95 % interval of the share of images with a finding of a category; C is any finding.

        Wilson's interval (1927), or the one from the differences between work units where it is
        wider: images of a unit are often of one patient or site.
        """
        count = int([*self.found, self.any][category])
        low, high = wilson(count, self.images)
        if self.units < LEAST_UNITS:
            return low, high
        share = count / self.images
        squares, products = self._products[:, category]
        residual = max(squares - 2 * share * products + share**2 * self._squares, 0.0)
        error = math.sqrt(residual * self.units / (self.units - 1)) / self.images
        half = float(stats.t.ppf(0.975, self.units - 1)) * error
        return max(0.0, min(low, share - half)), min(1.0, max(high, share + half))


def wilson(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not total:
        return 0.0, 1.0
    z = float(stats.norm.ppf(0.975))
    share, scale = count / total, 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def overview_of(run: str) -> Overview:
    """Read the finished units of a scoring run, several at once; `UserError` if there is none."""
    metadata, units = open_plan(run)
    overview = Overview(metadata)
    columns = ["archive", "member", "anomaly_score", "findings", "uncertain"]
    columns += [f"{kind}_{name}" for name in overview.categories for kind in ("score", "seeds")]
    done = tables.done_units(run)

    def planned() -> Iterator[str]:
        for unit in units:
            overview.units_planned += 1
            if unit.id in done:
                yield unit.id

    for unit, rows, failures in _parts(run, planned(), columns):
        overview.add(unit, rows, failures)
    return overview


def _parts(
    run: str, units: Iterable[str], columns: list[str]
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """The tables of units in their order; a few are read ahead."""

    def read(unit: str) -> tuple[str, pa.Table, pa.Table]:
        scores = tables.read_part(run, "scores", unit, columns)
        return unit, scores, tables.read_part(run, "failures", unit)

    waiting: deque[Future[tuple[str, pa.Table, pa.Table]]] = deque()
    names = iter(units)
    with ThreadPoolExecutor(READERS) as pool:
        waiting.extend(pool.submit(read, unit) for unit in islice(names, 2 * READERS))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(read, unit) for unit in islice(names, 1))


def rows_at(run: str, places: list[Place]) -> list[dict]:
    """The score rows at places, with all columns; each part is read once."""
    wanted: dict[str, list[int]] = {}
    for unit, row in places:
        wanted.setdefault(unit, []).append(row)

    def read(unit: str) -> dict[Place, dict]:
        part = tables.read_part(run, "scores", unit).take(pa.array(wanted[unit]))
        return {
            (unit, row): record for row, record in zip(wanted[unit], part.to_pylist(), strict=True)
        }

    found: dict[Place, dict] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for part in pool.map(read, wanted):
            found |= part
    return [found[place] for place in places]


def _histogram(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.clip((values * BINS).astype(int), 0, BINS - 1), minlength=BINS)


def _group_names(rows: pa.Table) -> np.ndarray:
    """The shard of each image, or the folder of a loose one."""
    archive = rows["archive"].combine_chunks()
    loose = pc.equal(archive, "")
    if not pc.any(loose).as_py():
        return archive.to_numpy(zero_copy_only=False)
    folder = pc.replace_substring_regex(rows["member"].combine_chunks(), r"/?[^/]*$", "")
    return pc.if_else(loose, folder, archive).to_numpy(zero_copy_only=False)
