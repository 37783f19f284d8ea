"""Collects score rows until a work unit is complete. No Ray, no storage.

Rows of many units arrive mixed and in any order. When a reader dies, its unit is read again, and
Ray delivers some blocks of one attempt and some of another. The attempts may disagree: a file that
crashed its decoder half-way has fewer rows when it is decoded in quarantine. So each row has
`digest`, which covers all rows of its unit up to this one, and `before`, the digest of the rows
before it. Rows belong together only if these form an unbroken chain from the end of the unit to
its start. A complete unit is returned once, with its rows in stored order.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

END_OF_UNIT = -1
START = 0


def extend(before: int, *texts: str) -> int:
    """The digest of a row with these texts after rows with the digest `before`."""
    content = "\0".join(texts).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(content, digest_size=8, salt=before.to_bytes(8, "little", signed=True))
    return int.from_bytes(digest.digest(), "little", signed=True)


@dataclass
class _Stretch:
    """Rows of a unit that follow each other, after the row with the digest `before`."""

    rows: pa.Table
    digests: np.ndarray
    before: int

    def until(self, digest: int) -> pa.Table:
        """The rows up to the one with this digest."""
        return self.rows.slice(0, int(np.flatnonzero(self.digests == digest)[0]) + 1)


@dataclass
class _Trace:
    """A chain from the end of a unit back to the row before the one with the digest `wanted`."""

    wanted: int
    found: list[pa.Table] = field(default_factory=list)


@dataclass
class _Open:
    """Rows of a unit by their digests; `whole` is the schema of a unit without rows."""

    whole: pa.Schema
    stretches: dict[int, _Stretch] = field(default_factory=dict)
    traces: dict[int, _Trace] = field(default_factory=dict)

    def take(self, rows: pa.Table) -> None:
        index, digest, before = (rows[name].to_numpy() for name in ("index", "digest", "before"))
        ends = index == END_OF_UNIT
        for last in before[ends].tolist():
            self.traces.setdefault(last, _Trace(last))
        # A stretch ends where the next row has another one before it, or ends the unit.
        breaks = (before[1:] != digest[:-1]) | ends[1:] | ends[:-1]
        edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(index)]
        for start, stop in itertools.pairwise(edges):
            if not ends[start]:
                digests = digest[start:stop]
                stretch = _Stretch(rows.slice(start, stop - start), digests, int(before[start]))
                self.stretches |= dict.fromkeys(digests.tolist(), stretch)

    def complete(self) -> pa.Table | None:
        """The rows of an unbroken chain; None if there is none yet."""
        for trace in self.traces.values():
            while trace.wanted != START and trace.wanted in self.stretches:
                stretch = self.stretches[trace.wanted]
                trace.found.append(stretch.until(trace.wanted))
                trace.wanted = stretch.before
            if trace.wanted == START:
                return pa.concat_tables([self.whole.empty_table(), *trace.found[::-1]])
        return None


class Ledger:
    """Rows by unit; columns `unit`, `index`, `digest` and `before` (`sdmad.scoring.reading`).

    A row with index `END_OF_UNIT` has no image; its `before` covers all rows of the unit.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._closed: set[str] = set()

    def add(self, batch: pa.Table) -> list[tuple[str, pa.Table]]:
        """Add rows and return the units that they complete, each with all its rows."""
        whole = []
        for unit, rows in _by_unit(batch):
            if unit in self._closed:
                continue
            entry = self._open.setdefault(unit, _Open(batch.schema))
            entry.take(rows)
            table = entry.complete()
            if table is not None:
                del self._open[unit]
                self._closed.add(unit)
                whole.append((unit, table))
        return whole

    def incomplete(self, units: Iterable[str]) -> set[str]:
        """Those of `units` that are not complete; their rows are dropped."""
        self._open.clear()
        return set(units) - self._closed


def _by_unit(batch: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Rows next to each other that have the same unit; a unit can come several times."""
    start = passed = 0
    for chunk in batch["unit"].chunks:
        runs = pc.run_end_encode(chunk)
        for unit, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            yield unit, batch.slice(start, passed + end - start)
            start = passed + end
        passed += len(chunk)
