"""Collects score rows until a work unit is complete. No Ray, no storage.

Rows of many units arrive mixed and in any order, and twice when a task was repeated. A unit is
complete when its total is known and every index below it has arrived. It is then returned once,
with its rows in stored order.
"""

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc


@dataclass
class _Open:
    total: int | None = None
    seen: set[int] = field(default_factory=set)
    rows: list[pa.Table] = field(default_factory=list)


class Ledger:
    """Rows by unit; `sdmad.scoring.pipeline` defines the columns `unit`, `index` and `total`.

    A row with index -1 has no image; its `total` is the number of images of the unit.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._closed: set[str] = set()

    @property
    def open_units(self) -> int:
        return len(self._open)

    def add(self, batch: pa.Table) -> list[tuple[str, pa.Table]]:
        """Add rows and return the units that they complete, each with all its rows."""
        whole = []
        for unit in pc.unique(batch["unit"]).to_pylist():
            if unit in self._closed:
                continue
            rows = batch.filter(pc.equal(batch["unit"], unit))
            entry = self._open.setdefault(unit, _Open())
            self._take(entry, rows)
            if entry.total is not None and len(entry.seen) == entry.total:
                whole.append((unit, self._close(unit, entry, rows.slice(0, 0))))
        return whole

    @staticmethod
    def _take(entry: _Open, rows: pa.Table) -> None:
        indices = rows["index"].to_pylist()
        keep = []
        for position, (index, total) in enumerate(
            zip(indices, rows["total"].to_pylist(), strict=True)
        ):
            if index < 0:
                entry.total = total
            elif index not in entry.seen:
                entry.seen.add(index)
                keep.append(position)
        if keep:
            entry.rows.append(rows.take(pa.array(keep)))

    def _close(self, unit: str, entry: _Open, empty: pa.Table) -> pa.Table:
        del self._open[unit]
        self._closed.add(unit)
        if not entry.rows:
            return empty
        return pa.concat_tables(entry.rows).sort_by("index")
