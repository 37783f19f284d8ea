"""The plan of a scoring run: all work units of the archive, and the detector that scores them.

`plan.parquet` has one row for each unit. A later run with the same output lists the archive again,
keeps the planned units and adds units for new objects. It stops with an error when a planned object
has changed or the detector differs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from sdmad import storage
from sdmad.archive.listing import list_archive
from sdmad.archive.units import WorkUnit, cut_units
from sdmad.errors import UserError
from sdmad.scoring import tables
from sdmad.storage import StoredObject, parquet

_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("kind", pa.string()),
        ("uris", pa.list_(pa.string())),
        ("sizes", pa.list_(pa.int64())),
        ("etags", pa.list_(pa.string())),
        ("part", pa.list_(pa.int64())),
    ]
)
IDENTITY = ("archive", "detector", "per_seed")


@dataclass(frozen=True)
class Plan:
    """All units of the archive, and the ids of those already finished when the run began."""

    units: list[WorkUnit]
    done: set[str]

    @property
    def todo(self) -> list[WorkUnit]:
        return [unit for unit in self.units if unit.id not in self.done]


def make_plan(archive: str, output: str, metadata: dict[str, str]) -> Plan:
    """List the archive, extend or create the plan at `output`, and find the finished units.

    `metadata` is written to the plan; the keys in `IDENTITY` must equal those of an earlier plan.
    Raises `UserError` when the archive is empty, when a planned object has changed or disappeared
    before it was scored, or when the output belongs to another archive or detector.
    """
    while (plan := _extended(archive, output, metadata)) is None:
        # Another run with the same output wrote its plan first; start again from that plan.
        pass
    return plan


def _extended(archive: str, output: str, metadata: dict[str, str]) -> Plan | None:
    """Extend the plan by new objects and write it; None if another run wrote it meanwhile."""
    uri = plan_uri(output)
    planned: list[WorkUnit] = []
    there = storage.describe(uri) if storage.exists(uri) else None
    if there:
        planned, before = read_plan(output)
        _check_identity(output, before, metadata)
    done = tables.done_units(output)
    listed = {entry.uri: entry for entry in list_archive(archive)}
    _check_unchanged(planned, done, listed)
    known = {entry.uri for unit in planned for entry in unit.objects}
    fresh = list(cut_units(archive, (e for name, e in listed.items() if name not in known)))
    units = planned + fresh
    if not units:
        raise UserError(
            f"there are no images at {archive}: neither shards nor objects that could be images"
        )
    if fresh and not storage.replace(uri, _encode(units, metadata), there):
        return None
    return Plan(units, done & {unit.id for unit in units})


def plan_uri(output: str) -> str:
    return storage.join(output, "plan.parquet")


def read_plan(output: str) -> tuple[list[WorkUnit], dict[str, str]]:
    """The planned units and the metadata of a run; `UserError` when there is no run."""
    uri = plan_uri(output)
    if not storage.exists(uri):
        raise UserError(
            f"there is no scoring run at {output}: plan.parquet is missing; score an archive to "
            "this place first, with `sdmad score` (jobs/score_archive.py)"
        )
    table = parquet.decode(storage.read_bytes(uri))
    pairs = table.schema.metadata or {}
    metadata = {
        key.decode().removeprefix("sdmad."): value.decode()
        for key, value in pairs.items()
        if key.startswith(b"sdmad.")
    }
    base = metadata["archive"]
    units = []
    for row in table.to_pylist():
        objects = zip(row["uris"], row["sizes"], row["etags"], strict=True)
        members = tuple(StoredObject(*entry) for entry in objects)
        part = tuple(row["part"]) if row["part"] else None
        units.append(WorkUnit(row["unit"], row["kind"], base, members, part))
    return units, metadata


def _encode(units: Iterable[WorkUnit], metadata: dict[str, str]) -> bytes:
    rows = [
        {
            "unit": unit.id,
            "kind": unit.kind,
            "uris": [entry.uri for entry in unit.objects],
            "sizes": [entry.size for entry in unit.objects],
            "etags": [entry.etag for entry in unit.objects],
            "part": unit.part,
        }
        for unit in units
    ]
    return tables.encode(pa.Table.from_pylist(rows, _SCHEMA), metadata)


def _check_identity(output: str, before: dict[str, str], now: dict[str, str]) -> None:
    for key in IDENTITY:
        if before.get(key) != now[key]:
            raise UserError(
                f"{output} holds scores with {key.replace('_', '-')} {before.get(key)}, "
                f"but this run has {now[key]}; choose another output, or the same "
                f"{key.replace('_', '-')}"
            )


def _check_unchanged(
    planned: list[WorkUnit], done: set[str], listed: dict[str, StoredObject]
) -> None:
    for unit in planned:
        for entry in unit.objects:
            now = listed.get(entry.uri)
            if now is None and unit.id not in done:
                raise UserError(
                    f"{entry.uri} was planned and has disappeared before it was scored; "
                    "put it back, or score to another output"
                )
            if now is not None and (now.size, now.etag) != (entry.size, entry.etag):
                raise UserError(
                    f"{entry.uri} has changed since it was planned; "
                    "score the changed archive to another output"
                )
