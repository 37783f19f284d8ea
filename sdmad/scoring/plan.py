"""The plan of a run: all work units of the archive, and the detector or backbone they are for.

`plan.parquet` has one row for each unit. A later run with the same output lists the archive again,
keeps the planned units and adds units for new objects. It stops with an error when a planned object
has changed or the detector differs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import logs, storage
from sdmad.archive import naming
from sdmad.archive.limits import DAMAGE, is_damage
from sdmad.archive.listing import list_archive
from sdmad.archive.units import WorkUnit, cut_units
from sdmad.errors import UserError
from sdmad.scoring import changes, tables
from sdmad.scoring.changes import Changes
from sdmad.storage import StoredObject
from sdmad.words import counted

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
IDENTITY = ("archive", "detector", "per_seed", "source", "decision")
_ABSENT = {
    tables.SCORES: "there is no scoring run at {}: plan.parquet is missing; score an archive to "
    "this place first, with `sdmad score`",
    tables.ACTIVATIONS: "there are no activations at {}: plan.parquet is missing; encode an "
    "archive to this place first, with `sdmad encode`",
}
_OTHER = {
    tables.SCORES: "{} holds scores, and no activations; those are what `sdmad encode` writes",
    tables.ACTIVATIONS: "{} holds activations, and no scores; `sdmad score --activations` makes "
    "scores of them",
}
UNITS_AT_ONCE = 4096
READ_BLOCK = 4 << 20


@dataclass(frozen=True)
class Plan:
    """All units of the archive, the ids of those already finished when the run began, and what has
    changed since an earlier run; `pruned` are the URIs whose rows were removed."""

    units: list[WorkUnit]
    done: set[str]
    changes: Changes = field(default_factory=Changes)
    pruned: frozenset[str] = frozenset()

    @property
    def todo(self) -> list[WorkUnit]:
        return [unit for unit in self.units if unit.id not in self.done]


@dataclass(frozen=True)
class Source:
    """Where the units of a plan come from: the objects of an archive, and units for new ones.

    `cut` gets the objects that are in no unit that stays, and these units.
    """

    listing: Callable[[], Iterable[StoredObject]]
    cut: Callable[[list[StoredObject], list[WorkUnit]], Iterable[WorkUnit]]

    @staticmethod
    def of_archive(archive: str) -> "Source":
        return Source(lambda: list_archive(archive), lambda new, _: cut_units(archive, new))


@dataclass(frozen=True)
class Kind:
    """What a run writes: the folder of its tables, and the keys of the metadata that all runs with
    one output have in common."""

    table: str = tables.SCORES
    identity: tuple[str, ...] = IDENTITY


SCORING = Kind()


def make_plan(
    archive: str,
    output: str,
    metadata: dict[str, str],
    accept_changes: bool = False,
    prune: bool = False,
    kind: Kind = SCORING,
    source: Source | None = None,
) -> Plan:
    """List the archive, extend or create the plan at `output`, and find the finished units.

    `metadata` is written to the plan; the keys in `kind.identity` must equal those of an earlier
    plan. `source` takes the place of the archive.
    With `accept_changes`, objects that have disappeared before they were scored leave the plan, and
    changed ones are planned again; their old rows are removed. With `prune`, the rows of finished
    objects that have disappeared are removed, and tables of units that are in no plan.

    Raises `UserError` when the archive is empty, when a planned object has changed or disappeared
    before it was scored and this is not accepted, or when the output belongs to another archive or
    detector.
    """
    source = source or Source.of_archive(archive)
    options = (accept_changes, prune, kind, source)
    while (plan := _extended(archive, output, metadata, *options)) is None:
        # Another run with the same output wrote its plan first; start again from that plan.
        pass
    return plan


def _extended(
    archive: str,
    output: str,
    metadata: dict[str, str],
    accept_changes: bool,
    prune: bool,
    kind: Kind,
    source: Source,
) -> Plan | None:
    """Bring the plan up to date and write it; None if another run wrote it meanwhile.

    The plan is the commit: tables of new units are written before, those of units that are no
    longer in it are removed after. A run that dies in between leaves tables of units that are in
    no plan, which nobody reads and `prune` removes.
    """
    uri = plan_uri(output)
    planned: list[WorkUnit] = []
    there = storage.describe(uri) if storage.exists(uri) else None
    if there:
        planned, before = read_plan(output, None)
        _check_identity(output, before, metadata, kind)
    done = tables.done_units(output, kind.table)
    listed = {entry.uri: entry for entry in source.listing()}
    found = changes.compare(planned, done, listed)
    dropped: frozenset[str] = frozenset()
    if accept_changes:
        dropped |= found.left | found.changed
    else:
        changes.check(found)
    pruned = found.gone if prune else frozenset()
    kept, moves = changes.without(planned, done, dropped | pruned)
    known = {entry.uri for unit in kept for entry in unit.objects}
    new = [entry for name, entry in listed.items() if name not in known]
    units = kept + list(source.cut(new, [unit for unit in kept if unit.id not in done]))
    if not units and not planned:
        raise UserError(
            f"there are no images at {archive}: neither shards nor objects that could be images"
        )
    _tell(archive, found, pruned)
    for move in moves:
        stay = {naming.clean(storage.relative(e.uri, archive)) for e in move.after.objects}
        tables.copy_rows(output, move.before.id, move.after.id, stay, kind.table)
        done.add(move.after.id)
    if units != planned and not storage.replace(uri, encode_plan(units, metadata), there):
        return None
    current = {unit.id for unit in units}
    obsolete = {unit.id for unit in planned} - current
    if prune:
        strays = tables.all_units(output, kind.table) - current - obsolete
        if strays:
            gone = counted(len(strays), "work unit")
            logs.notice(f"removing the tables of {gone} that the plan does not have")
        obsolete |= strays
    tables.remove_units(output, obsolete, kind.table)
    return Plan(units, done & current, found, pruned)


def _tell(archive: str, found: Changes, pruned: frozenset[str]) -> None:
    """Name on stderr what has left the archive or changed, before anything is removed."""
    names = {uri: storage.relative(uri, archive) for uri in found.gone | found.left | found.changed}

    def notice(uris: Iterable[str], text: str) -> None:
        if uris:
            logs.notice(text.format(changes.shown(names[uri] for uri in uris)))

    notice(found.left, "no longer in the archive, and never scored: {}")
    notice(found.changed, "changed, and scored again: {}")
    if pruned:
        notice(pruned, "no longer in the archive; removing the rows of: {}")
    else:
        notice(
            found.gone,
            "no longer in the archive, but with rows in the tables: {}; --prune removes these rows",
        )
    for before, after in found.renamed:
        if logs.wanted() and not naming.shard_kind(names[before]):
            continue
        logs.notice(f"{names[before]} seems to be called {storage.relative(after, archive)} now")


def plan_uri(output: str) -> str:
    return storage.join(output, "plan.parquet")


def read_plan(
    output: str, table: str | None = tables.SCORES
) -> tuple[list[WorkUnit], dict[str, str]]:
    """The planned units and the metadata of a run, as `open_plan`."""
    metadata, units = open_plan(output, table)
    return list(units), metadata


def open_plan(
    output: str, table: str | None = tables.SCORES
) -> tuple[dict[str, str], Iterator[WorkUnit]]:
    """The metadata of a run that writes `table`, and its units, read bit by bit.

    Raises `UserError` when there is no run, when it writes another table (None: any may), or when
    another or a damaged file is in the place of its plan.
    """
    uri = plan_uri(output)
    if not storage.exists(uri):
        raise UserError(_ABSENT[table or tables.SCORES].format(output))
    foreign = UserError(
        f"{uri} is not the plan of a scoring run; choose another output, or remove the file"
    )
    stream = storage.open_read(uri, READ_BLOCK)
    try:
        file = pq.ParquetFile(stream, buffer_size=READ_BLOCK, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError):
        raise foreign from None
    metadata = tables.metadata_of(file.schema_arrow)
    if file.schema_arrow.names != _SCHEMA.names or "archive" not in metadata:
        raise foreign
    holds = tables.ACTIVATIONS if "layout" in metadata else tables.SCORES
    if table not in (None, holds):
        raise UserError(_OTHER[holds].format(output))

    def units() -> Iterator[WorkUnit]:
        with stream:
            try:
                for batch in file.iter_batches(UNITS_AT_ONCE, use_threads=False):
                    for row in batch.to_pylist():
                        objects = zip(row["uris"], row["sizes"], row["etags"], strict=True)
                        members = tuple(StoredObject(*entry) for entry in objects)
                        part = tuple(row["part"]) if row["part"] else None
                        yield WorkUnit(row["unit"], row["kind"], metadata["archive"], members, part)
            except (OSError, *DAMAGE) as error:
                if not is_damage(error):
                    raise
                raise UserError(
                    f"{uri} is damaged; restore it, or score to another output"
                ) from None

    return metadata, units()


def planned_ids(output: str, table: str = tables.SCORES) -> Iterator[str]:
    """The ids of the planned units, without reading their objects; raises as `open_plan` does."""
    open_plan(output, table)
    uri = plan_uri(output)
    with storage.open_read(uri, READ_BLOCK) as stream:
        try:
            file = pq.ParquetFile(stream, buffer_size=READ_BLOCK, pre_buffer=False)
            for batch in file.iter_batches(UNITS_AT_ONCE, columns=["unit"], use_threads=False):
                yield from batch["unit"].to_pylist()
        except (OSError, *DAMAGE) as error:
            if not is_damage(error):
                raise
            raise UserError(f"{uri} is damaged; restore it, or score to another output") from None


def encode_plan(units: Iterable[WorkUnit], metadata: dict[str, str]) -> bytes:
    """The content of `plan.parquet`."""
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
    return tables.encode(pa.Table.from_pylist(rows, _SCHEMA), metadata, UNITS_AT_ONCE)


def _check_identity(output: str, before: dict[str, str], now: dict[str, str], kind: Kind) -> None:
    for key in kind.identity:
        old, new = before.get(key, "none"), now.get(key, "none")
        if old != new:
            name = key.replace("_", "-")
            raise UserError(
                f"{output} holds {kind.table} with {name} {old}, but this run has {new}; "
                f"choose another output, or the same {name}"
            )
