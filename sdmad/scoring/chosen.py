"""Chosen images of activations: the supports of fits, the test images of a comparison.

    images = EncodedArchive.open("s3://bucket/odir-activations")
    found = images.find(pool, wanted=support)

Only the names of images are read of the shards that hold some of them, and the vectors of those
that are wanted.
"""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.activations import Stored, from_arrow
from sdmad.archive.naming import clean, comparable, split_frame
from sdmad.archive.units import WorkUnit
from sdmad.fitting.encoded import Chosen, Found
from sdmad.inputs.matching import SHOWN, FailureIndex, Name, NameIndex
from sdmad.scoring import tables
from sdmad.scoring.plan import read_plan
from sdmad.scoring.stored import check_complete

THREADS = 8
NAMES = ["archive", "member"]


@dataclass(frozen=True)
class EncodedArchive:
    """The activations of an archive at `uri`, and their units."""

    uri: str
    stored: Stored
    units: list[WorkUnit]

    @staticmethod
    def open(uri: str) -> "EncodedArchive":
        """Raises `UserError` if there are no activations, or if they are incomplete."""
        units, metadata = read_plan(uri, tables.ACTIVATIONS)
        stored = Stored.of(metadata, uri)
        check_complete(uri, units)
        return EncodedArchive(uri, stored, units)

    def find(self, images: Iterable[Name], wanted: Collection[Name]) -> Found:
        """Look for images (archive, member), and read the activations of those that are wanted."""
        names = list(dict.fromkeys(images))
        index, failures = NameIndex(names), FailureIndex(names)
        needed = {index[name] for name in wanted}

        def of_unit(unit: WorkUnit) -> _OfUnit:
            return self._of_unit(unit, index, failures, needed)

        with ThreadPoolExecutor(THREADS) as pool:
            parts = list(pool.map(of_unit, self._holding(names)))
        there = {row for part in parts for row in part.there}
        failed = {
            row: why for part in parts for row, why in part.failed.items() if row not in there
        }
        others = [name for part in parts for name in part.others]
        if not others:
            others = [self._example(unit) for unit in self.units[: 2 * SHOWN]]
        rows: list[int] = [row for part in parts for row in part.rows]
        columns = {
            name: np.concatenate([part.columns[name] for part in parts if part.rows])
            for name in (self.stored.layout.blank() if rows else ())
        }
        return Found(
            chosen=Chosen(
                self.stored.layout, {names[row]: k for k, row in enumerate(rows)}, columns
            ),
            failed={names[row]: why for row, why in failed.items()},
            absent=[name for k, name in enumerate(names) if k not in there and k not in failed],
            others=others,
        )

    def _example(self, unit: WorkUnit) -> Name:
        return "", storage.relative(unit.objects[0].uri, self.stored.archive)

    def _holding(self, names: list[Name]) -> list[WorkUnit]:
        """The units that may hold some of the images."""
        shards = {comparable(archive) for archive, _ in names if archive}
        loose = [member for archive, member in names if not archive]
        files = {comparable(name) for one in loose for name in (one, split_frame(one)[0])}

        def holds(unit: WorkUnit) -> bool:
            if unit.archive:
                return comparable(clean(unit.archive)) in shards
            base = self.stored.archive
            uris = [storage.relative(entry.uri, base) for entry in unit.objects] if files else []
            return any(comparable(clean(uri)) in files for uri in uris)

        return [unit for unit in self.units if holds(unit)]

    def _of_unit(
        self, unit: WorkUnit, index: NameIndex, failures: FailureIndex, needed: set[int]
    ) -> "_OfUnit":
        uri = storage.join(self.uri, tables.ACTIVATIONS, tables.part_name(unit.id))
        found = _OfUnit([], {}, set(), {}, [])
        vectors: list[pa.Table] = []
        with (
            tables.readable(self.uri, tables.ACTIVATIONS, unit.id),
            storage.open_read(uri, 1 << 20) as stream,
        ):
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                held = file.read_row_group(group, NAMES, use_threads=False).to_pylist()
                named = [(row["archive"], row["member"]) for row in held]
                rows = [index.find(name) for name in named]
                found.there.update(row for row in rows if row is not None)
                if len(found.others) < SHOWN:
                    unnamed = [n for n, row in zip(named, rows, strict=True) if row is None]
                    found.others.extend(unnamed[:SHOWN])
                some = [k for k, row in enumerate(rows) if row in needed]
                if some:
                    columns = list(self.stored.layout.blank())
                    table = file.read_row_group(group, columns, use_threads=False)
                    vectors.append(table.take(some))
                    found.rows.extend(row for k in some if (row := rows[k]) is not None)
        if vectors:
            found.columns.update(from_arrow(pa.concat_tables(vectors)))
        failed = tables.read_part(self.uri, "failures", unit.id, [*NAMES, "reason"])
        for row in failed.to_pylist():
            for k in failures.find((row["archive"], row["member"])):
                found.failed.setdefault(k, row["reason"])
        return found


@dataclass(frozen=True)
class _OfUnit:
    """What one unit has: `columns` of the wanted images `rows`, all images that are `there`, those
    that `failed`, and some `others`."""

    rows: list[int]
    columns: dict[str, np.ndarray]
    there: set[int]
    failed: dict[int, str]
    others: list[Name]
