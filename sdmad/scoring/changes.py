"""Objects that left the archive or changed after they were planned: what that means for a run.

    changes = compare(planned, done, listed)
    units, moved = without(planned, done, changes.left | changes.changed)

Nothing is written here, and no storage is asked.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sdmad import logs
from sdmad.archive import naming
from sdmad.archive.units import WorkUnit
from sdmad.errors import UserError
from sdmad.storage import StoredObject
from sdmad.words import counted

SHOWN = 5


@dataclass(frozen=True)
class Changes:
    """URIs of planned objects.

    `gone` have left the archive after they were scored, `left` before. `changed` have another size
    or ETag. `renamed` leads from shards that are gone to new ones of the same size and ETag.
    """

    gone: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    renamed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Move:
    """A finished unit of loose objects, some of which go: the unit of those that stay."""

    before: WorkUnit
    after: WorkUnit


def compare(
    planned: Iterable[WorkUnit], done: set[str], listed: dict[str, StoredObject]
) -> Changes:
    """What has changed since the plan was made. `listed` is the archive now, by URI."""
    gone, left, changed = set(), set(), set()
    known: set[str] = set()
    content: dict[tuple[int, str], str] = {}
    for unit in planned:
        for entry in unit.objects:
            known.add(entry.uri)
            now = listed.get(entry.uri)
            if now is None and unit.id in done:
                gone.add(entry.uri)
                if unit.kind != "objects" and entry.size:
                    content[entry.size, entry.etag] = entry.uri
            elif now is None:
                left.add(entry.uri)
            elif (now.size, now.etag) != (entry.size, entry.etag):
                changed.add(entry.uri)
    # A shard in several parts may be finished in some of them.
    gone -= left
    renamed = {}
    if content:
        for entry in listed.values():
            before = content.get((entry.size, entry.etag))
            if before and before in gone:
                renamed[before] = entry.uri
    return Changes(frozenset(gone), frozenset(left), frozenset(changed), tuple(renamed.items()))


def check(changes: Changes) -> None:
    """Raise `UserError` for changes that a run takes notice of only when it is told to."""
    for uris, what in (
        (changes.left, "was planned and has disappeared before it was scored"),
        (changes.changed, "has changed since it was planned"),
    ):
        if uris:
            more = len(uris) - 1
            others = f" ({more:,} other object{'s' * (more > 1)} too)" if more else ""
            raise UserError(
                f"{min(uris)} {what}{others}; put it back, go on without it or with its new "
                "content with --accept-changes, or score to another output"
            )


def without(
    planned: Iterable[WorkUnit], done: set[str], dropped: Iterable[str]
) -> tuple[list[WorkUnit], list[Move]]:
    """The units without the objects `dropped`, and the finished units that go on in part."""
    drop = frozenset(dropped)
    units, moves = [], []
    for unit in planned:
        rest = [entry for entry in unit.objects if entry.uri not in drop]
        if len(rest) == len(unit.objects):
            units.append(unit)
        elif rest:
            after = WorkUnit.of(unit.kind, unit.base, rest)
            units.append(after)
            if unit.id in done:
                moves.append(Move(unit, after))
    return units, moves


def shown(uris: Iterable[str]) -> str:
    """The first names of many; JSON logs name shards only, not images."""
    names = sorted(uris)
    if logs.wanted() and not all(naming.shard_kind(name) for name in names):
        return counted(len(names), "object")
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
