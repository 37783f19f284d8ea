"""Collects score rows until a work unit is complete. No Ray, no storage.

Rows of many units arrive mixed and in any order. When a reader dies, its unit is read again, and
Ray delivers some blocks of one attempt and some of another. The attempts may disagree: a file that
crashed its decoder half-way has fewer rows when it is decoded in quarantine. So each row has
`digest`, which covers all rows of its unit up to this one, and `before`, the digest of the rows
before it. Rows belong together only if these form an unbroken chain from the end of the unit to
its start. A complete unit is returned once, with its rows in stored order.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

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
class _Trace:
    """A chain from the end of a unit back to the row before the one with the digest `wanted`."""

    wanted: int
    found: list[int] = field(default_factory=list)


@dataclass
class _Open:
    """Rows of a unit: tables, and by digest the digest before it and the row's place in them."""

    tables: list[pa.Table] = field(default_factory=list)
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    traces: dict[int, _Trace] = field(default_factory=dict)
    size: int = 0

    def take(self, rows: pa.Table) -> None:
        columns = (rows[name].to_pylist() for name in ("index", "digest", "before"))
        for position, (index, digest, before) in enumerate(zip(*columns, strict=True)):
            if index == END_OF_UNIT:
                self.traces.setdefault(before, _Trace(before))
            else:
                self.rows.setdefault(digest, (before, self.size + position))
        self.tables.append(rows)
        self.size += rows.num_rows

    def complete(self) -> pa.Table | None:
        """The rows of an unbroken chain; None if there is none yet."""
        for trace in self.traces.values():
            while trace.wanted != START and trace.wanted in self.rows:
                trace.wanted, position = self.rows[trace.wanted]
                trace.found.append(position)
            if trace.wanted == START:
                places = pa.array(trace.found[::-1], pa.int64())
                return pa.concat_tables(self.tables).take(places)
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
        for unit in pc.unique(batch["unit"]).to_pylist():
            if unit in self._closed:
                continue
            entry = self._open.setdefault(unit, _Open())
            entry.take(batch.filter(pc.equal(batch["unit"], unit)))
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
