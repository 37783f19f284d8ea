"""Cut a verification into jobs: objects of the archive, with the units that hold their rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sdmad import storage
from sdmad.archive.naming import clean
from sdmad.archive.units import WorkUnit
from sdmad.scoring import tables
from sdmad.scoring.census import rules
from sdmad.scoring.census.listing import UNKNOWN, list_all
from sdmad.scoring.plan import open_plan, plan_uri
from sdmad.scoring.verify.verdict import Verdict
from sdmad.storage import StoredObject

LOOSE_TOGETHER = 256
LISTED_TOGETHER = 4096


@dataclass(frozen=True)
class Job:
    """Objects whose rows are in the tables of `units`; `why` is for those that are no images.

    With `pending`, some of their rows are not written yet. Rows of the objects `gone` and `changed`
    may be in the tables too; both are names.
    """

    objects: tuple[StoredObject, ...] = ()
    why: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    gone: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    pending: bool = False


class _Index:
    """The objects of a plan by the hashes of their names: are they still listed, and the same?"""

    def __init__(self, objects: Iterable[tuple[str, StoredObject]]) -> None:
        keys, contents = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for group in _grouped(objects, LISTED_TOGETHER):
            keys.append(np.array([hash(name) for name, _ in group], np.int64))
            contents.append(np.array([hash((e.size, e.etag)) for _, e in group], np.int64))
        key = np.concatenate(keys)
        order = np.argsort(key, kind="stable")
        self.keys, self.contents = key[order], np.concatenate(contents)[order]
        self.listed = np.zeros(len(key), bool)
        self.changed = np.zeros(len(key), bool)

    def places(self, names: list[str]) -> np.ndarray:
        """Where the names are; -1 for those that are not planned."""
        wanted = np.array([hash(name) for name in names], np.int64)
        if not len(self.keys):
            return np.full(len(names), -1)
        found = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[found] == wanted, found, -1)

    def see(self, group: list[tuple[str, StoredObject]]) -> tuple[np.ndarray, np.ndarray]:
        """Note that objects are listed; returns which are planned, and which have changed."""
        places = self.places([name for name, _ in group])
        planned = places >= 0
        now = np.array([hash((e.size, e.etag)) for _, e in group], np.int64)
        known = np.array([e.size != UNKNOWN for _, e in group], bool)
        changed = planned & known & (self.contents[places] != now if len(self.keys) else planned)
        for place, other in zip(places[planned], changed[planned], strict=True):
            # An object that is planned in parts is there more than once.
            stop = int(np.searchsorted(self.keys, self.keys[place], "right"))
            self.listed[place:stop] = True
            self.changed[place:stop] = other
        return planned, changed

    def are_listed(self, names: list[str]) -> np.ndarray:
        return self._at(names, self.listed)

    def have_changed(self, names: list[str]) -> np.ndarray:
        return self._at(names, self.changed)

    def _at(self, names: list[str], flags: np.ndarray) -> np.ndarray:
        places = self.places(names)
        return (places >= 0) & (flags[places] if len(self.keys) else False)


class Jobs:
    """The jobs of a verification, once. `found` has what cutting them tells: `changed` objects and
    `renamed` shards."""

    def __init__(self, archive: str, output: str, table: str = tables.SCORES) -> None:
        self.archive, self.output, self.table = archive, output, table
        self.found = Verdict()
        self._index = _Index(())

    def name(self, entry: StoredObject) -> str:
        """The name of an object, as it is in the tables."""
        return clean(storage.relative(entry.uri, self.archive))

    def are_listed(self, names: list[str]) -> bool:
        """Whether a planned object with one of these names is in the archive."""
        return bool(self._index.are_listed(names).any())

    def __iter__(self) -> Iterator[Job]:
        done = tables.done_units(self.output, self.table)
        if not storage.exists(plan_uri(self.output)):
            # Tables without a plan: nothing tells which of them belongs to which object.
            listed = list(list_all(self.archive))
            yield Job(
                tuple(entry for entry, _ in listed), tuple(why for _, why in listed), tuple(done)
            )
            return
        self._index = _Index(
            (self.name(entry), entry) for unit in self._units() for entry in unit.objects
        )
        yield from self._unplanned()
        planned: set[str] = set()
        gone = {} if self._index.listed.all() else self._gone_shards()
        for units in _by_object(self._units()):
            planned |= {unit.id for unit in units}
            yield self._job(units, done, gone)
        # What an interrupted clean-up leaves, or two runs on a store that ignores conditions.
        yield from (Job(units=(unit,)) for unit in sorted(done - planned))

    def _units(self) -> Iterator[WorkUnit]:
        return open_plan(self.output, self.table)[1]

    def _unplanned(self) -> Iterator[Job]:
        """Jobs for listed objects that are not planned; notes which planned ones are listed."""
        loose: list[tuple[StoredObject, str]] = []
        for group in _grouped(list_all(self.archive), LISTED_TOGETHER):
            named = [(self.name(entry), entry) for entry, _ in group]
            planned, changed = self._index.see(named)
            for k, (entry, why) in enumerate(group):
                if planned[k]:
                    if changed[k]:
                        self.found.add("changed", named[k][0])
                elif rules.shard_kind(entry.uri) and not why:
                    yield Job((entry,), ("",), pending=True)
                else:
                    loose.append((entry, why))
            while len(loose) >= LOOSE_TOGETHER:
                some, loose = loose[:LOOSE_TOGETHER], loose[LOOSE_TOGETHER:]
                yield Job(tuple(e for e, _ in some), tuple(w for _, w in some), pending=True)
        if loose:
            yield Job(tuple(e for e, _ in loose), tuple(w for _, w in loose), pending=True)

    def _gone_shards(self) -> dict[tuple[int, str], str]:
        """The names of planned shards that are not listed, by size and ETag."""
        found = {}
        for units in _by_object(self._units()):
            entry = units[0].objects[0]
            name = self.name(entry)
            if units[0].kind != "objects" and entry.size and not self.are_listed([name]):
                found[entry.size, entry.etag] = name
        return found

    def _job(
        self, units: list[WorkUnit], done: set[str], gone_shards: dict[tuple[int, str], str]
    ) -> Job:
        objects = units[0].objects
        names = [self.name(entry) for entry in objects]
        listed, changed = self._index.are_listed(names), self._index.have_changed(names)
        here = [e for e, same in zip(objects, listed & ~changed, strict=True) if same]
        finished = tuple(unit.id for unit in units if unit.id in done)
        for entry in here if units[0].kind != "objects" else ():
            before = gone_shards.get((entry.size, entry.etag))
            if before and finished:
                self.found.add("renamed", (before, self.name(entry)))
        return Job(
            tuple(here),
            ("",) * len(here),
            finished,
            gone=frozenset(n for n, there in zip(names, listed, strict=True) if not there),
            changed=frozenset(n for n, other in zip(names, changed, strict=True) if other),
            pending=len(finished) < len(units),
        )


def _by_object(units: Iterable[WorkUnit]) -> Iterator[list[WorkUnit]]:
    """Units that are parts of one shard, together; other units alone. Parts follow each other."""
    parts: list[WorkUnit] = []
    for unit in units:
        if parts and (unit.part is None or unit.objects != parts[0].objects):
            yield parts
            parts = []
        parts.append(unit)
    if parts:
        yield parts


def _grouped(items: Iterable, size: int) -> Iterator[list]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
