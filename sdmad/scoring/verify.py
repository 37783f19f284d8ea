"""Check that each image of an archive is exactly once in scores or failures.

    verdict = verify_scores("s3://bucket/odir", "s3://bucket/odir-scores")
    verdict.passed, verdict.count["lost"], verdict.lost

The archive is counted by other code than that of the scorer (`sdmad.scoring.census`), and compared
with the tables unit by unit, several at once. Memory does not grow with the number of images; it
grows by 25 bytes for each object (shard or loose image), and by the names of the largest shard.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from sdmad import storage
from sdmad.archive.naming import clean, frame_name, split_frame
from sdmad.archive.units import WorkUnit
from sdmad.scoring import tables
from sdmad.scoring.census import rules
from sdmad.scoring.census.frames import Count
from sdmad.scoring.census.listing import UNKNOWN, list_all
from sdmad.scoring.census.shards import Census, count_loose, count_shard
from sdmad.scoring.plan import open_plan, plan_uri
from sdmad.storage import StoredObject

Name = tuple[str, str]
THREADS = 16
JOBS_AT_ONCE = 4 * THREADS
LOOSE_TOGETHER = 256
LISTED_TOGETHER = 4096
# Names that a verdict keeps of each kind.
MOST_NAMES = 1000


@dataclass
class Verdict:
    """What a verification found; names are (archive, member), the first `MOST_NAMES` of each kind.

    `lost` images have no row, `doubled` ones more than one, `foreign` rows belong to no image.
    Names of objects: `unscored` ones are in the archive and not scored yet, with their images;
    `gone` ones have rows and have left the archive, with these rows; `renamed` shards are gone and
    have the size and ETag of another one; `changed` ones have another size or ETag than when they
    were scored; `broken` shards cannot be read to their end, and nobody knows what is behind the
    break. `left_out` counts files that cannot be images, by kind and suffix; `suspects` are those
    of them that begin like an image. `count` has the total of each kind.
    """

    images: int = 0
    scored: int = 0
    failed: int = 0
    lost: list[Name] = field(default_factory=list)
    doubled: list[Name] = field(default_factory=list)
    foreign: list[Name] = field(default_factory=list)
    suspects: list[Name] = field(default_factory=list)
    unscored: Counter[str] = field(default_factory=Counter)
    gone: Counter[str] = field(default_factory=Counter)
    changed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    renamed: list[Name] = field(default_factory=list)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    count: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        faults = ("lost", "doubled", "foreign", "unscored", "changed", "renamed")
        return not any(self.count[kind] for kind in faults)

    def add(self, kind: str, name: Name | str, number: int = 1) -> None:
        """Count a name of a kind, and keep it if it is one of the first."""
        self.count[kind] += number
        kept = getattr(self, kind)
        if isinstance(kept, Counter):
            if name in kept or len(kept) < MOST_NAMES:
                kept[name] += number
        else:
            kept += [name] * min(number, MOST_NAMES - len(kept))

    def merge(self, other: "Verdict") -> None:
        self.images += other.images
        self.scored += other.scored
        self.failed += other.failed
        self.left_out += other.left_out
        for kind in ("lost", "doubled", "foreign", "suspects", "changed", "broken", "renamed"):
            kept = getattr(self, kind)
            kept += getattr(other, kind)[: MOST_NAMES - len(kept)]
        for kind in ("unscored", "gone"):
            kept = getattr(self, kind)
            for name, number in getattr(other, kind).items():
                if name in kept or len(kept) < MOST_NAMES:
                    kept[name] += number
        self.count += other.count


@dataclass(frozen=True)
class _Job:
    """Objects whose rows are in the tables of `units`; `why` is for those that are no images.

    With `pending`, some of their rows are not written yet. Rows of the objects `gone` may be in the
    tables too.
    """

    objects: tuple[StoredObject, ...] = ()
    why: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    gone: frozenset[str] = frozenset()
    pending: bool = False


class _Index:
    """The objects of a plan by the hashes of their names: which of them are still listed."""

    def __init__(self, objects: Iterable[tuple[str, StoredObject]]) -> None:
        keys, contents = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for group in _grouped(objects, LISTED_TOGETHER):
            keys.append(np.array([hash(name) for name, _ in group], np.int64))
            contents.append(np.array([hash((e.size, e.etag)) for _, e in group], np.int64))
        key = np.concatenate(keys)
        order = np.argsort(key, kind="stable")
        self.keys, self.contents = key[order], np.concatenate(contents)[order]
        self.listed = np.zeros(len(key), bool)

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
        for place in places[planned]:
            # An object that is planned in parts is there more than once.
            stop = int(np.searchsorted(self.keys, self.keys[place], "right"))
            self.listed[place:stop] = True
        return planned, changed

    def are_listed(self, names: list[str]) -> np.ndarray:
        places = self.places(names)
        return (places >= 0) & (self.listed[places] if len(self.keys) else False)


def verify_scores(archive: str, output: str, open_files: bool = True) -> Verdict:
    """Compare the archive with the tables of the scoring run at `output`.

    Without `open_files`, images in files of several frames are not counted: then the headers and
    directories of shards are enough, and loose objects are only listed. Raises `UserError` when the
    archive cannot be listed.
    """
    verification = _Verification(archive, output, open_files)
    verdict = verification.verdict
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Verdict]] = deque()
        try:
            for job in verification.jobs():
                waiting.append(pool.submit(verification.do, job))
                if len(waiting) == JOBS_AT_ONCE:
                    verdict.merge(waiting.popleft().result())
            while waiting:
                verdict.merge(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
    for kind in ("lost", "doubled", "foreign", "suspects", "changed", "broken"):
        getattr(verdict, kind).sort()
    return verdict


class _Verification:
    """Cuts a verification into jobs, which only read, and does them."""

    def __init__(self, archive: str, output: str, open_files: bool) -> None:
        self.archive, self.output, self.open_files = archive, output, open_files
        self.verdict = Verdict()
        self.index = _Index(())

    def name(self, entry: StoredObject) -> str:
        return clean(storage.relative(entry.uri, self.archive))

    def jobs(self) -> Iterator[_Job]:
        done = tables.done_units(self.output)
        if not storage.exists(plan_uri(self.output)):
            # Tables without a plan: nothing tells which of them belongs to which object.
            listed = list(list_all(self.archive))
            yield _Job(
                tuple(entry for entry, _ in listed), tuple(why for _, why in listed), tuple(done)
            )
            return
        self.index = _Index(
            (self.name(entry), entry) for unit in self._units() for entry in unit.objects
        )
        yield from self._unplanned()
        planned: set[str] = set()
        gone = {} if self.index.listed.all() else self._gone_shards()
        for units in _by_object(self._units()):
            planned |= {unit.id for unit in units}
            yield self._job(units, done, gone)
        # What an interrupted clean-up leaves, or two runs on a store that ignores conditions.
        yield from (_Job(units=(unit,)) for unit in sorted(done - planned))

    def _units(self) -> Iterator[WorkUnit]:
        return open_plan(self.output)[1]

    def _unplanned(self) -> Iterator[_Job]:
        """Jobs for listed objects that are not planned; notes which planned ones are listed."""
        loose: list[tuple[StoredObject, str]] = []
        for group in _grouped(list_all(self.archive), LISTED_TOGETHER):
            named = [(self.name(entry), entry) for entry, _ in group]
            planned, changed = self.index.see(named)
            for k, (entry, why) in enumerate(group):
                if planned[k]:
                    if changed[k]:
                        self.verdict.add("changed", named[k][0])
                elif rules.shard_kind(entry.uri) and not why:
                    yield _Job((entry,), ("",), pending=True)
                else:
                    loose.append((entry, why))
            while len(loose) >= LOOSE_TOGETHER:
                some, loose = loose[:LOOSE_TOGETHER], loose[LOOSE_TOGETHER:]
                yield _Job(tuple(e for e, _ in some), tuple(w for _, w in some), pending=True)
        if loose:
            yield _Job(tuple(e for e, _ in loose), tuple(w for _, w in loose), pending=True)

    def _gone_shards(self) -> dict[tuple[int, str], str]:
        """The names of planned shards that are not listed, by size and ETag."""
        found = {}
        for units in _by_object(self._units()):
            entry = units[0].objects[0]
            name = self.name(entry)
            if units[0].kind != "objects" and entry.size and not self.index.are_listed([name])[0]:
                found[entry.size, entry.etag] = name
        return found

    def _job(
        self, units: list[WorkUnit], done: set[str], gone_shards: dict[tuple[int, str], str]
    ) -> _Job:
        objects = units[0].objects
        names = [self.name(entry) for entry in objects]
        listed = self.index.are_listed(names)
        here = [entry for entry, there in zip(objects, listed, strict=True) if there]
        finished = tuple(unit.id for unit in units if unit.id in done)
        for entry in here if units[0].kind != "objects" else ():
            before = gone_shards.get((entry.size, entry.etag))
            if before and finished:
                self.verdict.add("renamed", (before, self.name(entry)))
        gone = {name for name, there in zip(names, listed, strict=True) if not there}
        pending = len(finished) < len(units)
        return _Job(tuple(here), ("",) * len(here), finished, frozenset(gone), pending)

    def do(self, job: _Job) -> Verdict:
        """Count the objects of a job and compare them with the rows in the tables of its units."""
        verdict = Verdict()
        expected: defaultdict[Name, list[Count]] = defaultdict(list)
        named = {self.name(entry) for entry in job.objects}
        broken: set[str] = set()
        for entry, why in zip(job.objects, job.why, strict=True):
            name = self.name(entry)
            kind = "" if why else rules.shard_kind(entry.uri)
            if kind:
                census = count_shard(entry, kind, self.open_files)
            else:
                census = count_loose(entry, name, why, self.open_files)
            self._take(census, name if kind else "", expected, verdict)
            if census.broken:
                broken.add(name)
                verdict.add("broken", name)
                expected[name, ""].append(None)
        rows = self._rows(job.units, expected, verdict)
        for file, counts in expected.items():
            self._settle(file, counts, rows.pop(file, _Rows()), job, verdict)
        for (shard, member), found in rows.items():
            owner = shard or split_frame(member)[0]
            if owner in job.gone or (member in job.gone and not shard):
                verdict.add("gone", owner if owner in job.gone else member, found.total)
            elif owner in named and (owner in broken or self._may_be(shard, member, found)):
                verdict.images += found.total
            else:
                self._add_stray(shard, member, found, owner in named, verdict)
        return verdict

    def _take(
        self,
        census: Census,
        shard: str,
        expected: defaultdict[Name, list[Count]],
        verdict: Verdict,
    ) -> None:
        for member, count in census.images:
            expected[shard, member].append(count)
        verdict.left_out += census.left_out
        for member in census.suspects:
            verdict.add("suspects", (shard, member))

    def _rows(
        self, units: Iterable[str], expected: defaultdict[Name, list[Count]], verdict: Verdict
    ) -> dict[Name, "_Rows"]:
        """The rows of finished units, by file."""
        found: defaultdict[Name, _Rows] = defaultdict(_Rows)
        for unit in units:
            for kind in ("scores", "failures"):
                table = tables.read_part(self.output, kind, unit, ("archive", "member"))
                if kind == "scores":
                    verdict.scored += table.num_rows
                else:
                    verdict.failed += table.num_rows
                columns = (table["archive"].to_pylist(), table["member"].to_pylist())
                for shard, member in zip(*columns, strict=True):
                    frame: int | None = None
                    if (shard, member) not in expected:
                        name, frame = split_frame(member)
                        member = name if (shard, name) in expected else member
                        frame = frame if (shard, name) in expected else None
                    if not member and shard and (shard, "") not in expected:
                        # A shard that could not be read, where verification sees a loose file.
                        shard, member = ("", shard) if ("", shard) in expected else (shard, "")
                    rows = found[shard, member]
                    if frame is not None:
                        rows.frames[frame] += 1
                    elif kind == "scores":
                        rows.scored += 1
                    else:
                        rows.failed += 1
        return found

    def _settle(
        self, file: Name, counts: list[Count], rows: "_Rows", job: _Job, verdict: Verdict
    ) -> None:
        """Compare the rows of a file with the images that it may have."""
        wanted, lost, surplus = rows.compare(counts)
        verdict.images += wanted
        shard, member = file
        for frame, number in sorted(lost.items()):
            name = (shard, frame_name(member, frame or None))
            if job.pending:
                verdict.add("unscored", shard or member, number)
            else:
                verdict.add("lost", name, number)
        for frame, number in sorted(surplus.items()):
            name = (shard, frame_name(member, frame or None))
            known = frame == 0 or frame <= max((max(c) for c in counts if c), default=1)
            verdict.add("doubled" if known else "foreign", name, number)

    @staticmethod
    def _may_be(shard: str, member: str, rows: "_Rows") -> bool:
        """Whether rows may be there without an image: files that verification leaves out, and a
        shard or object as a whole that the scorer could not read."""
        left_out = bool(rules.why_no_image(member)[0])
        return left_out or (not rows.scored and not rows.frames and not (shard and member))

    def _add_stray(
        self, shard: str, member: str, rows: "_Rows", own: bool, verdict: Verdict
    ) -> None:
        """Rows that belong to no object of their unit, or (`own`) to none of its images."""
        names = [shard] if shard else [member, split_frame(member)[0]]
        elsewhere = not own and bool(self.index.are_listed(names).any())
        verdict.add("doubled" if elsewhere else "foreign", (shard, member), rows.total)


@dataclass
class _Rows:
    """Rows of one file: those under its own name, in scores and in failures, and by frame."""

    scored: int = 0
    failed: int = 0
    frames: Counter[int] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.scored + self.failed + self.frames.total()

    def compare(self, counts: list[Count]) -> tuple[int, Counter[int], Counter[int]]:
        """How many images files of this name have, and which are missing and too many.

        Images are numbered by frame, 0 for a file of one image. `counts` has an entry for each file
        of this name. A failure under the file's own name stands for all of its frames.
        """
        have = Counter({0: self.scored + self.failed}) + self.frames
        failed = self.failed
        want: Counter[int] = Counter()
        for count in sorted(counts, key=lambda count: count is None):
            left = have - want
            top = max(left, default=0)
            if count is None:
                images = 1 if left[0] or top == 0 else top
            elif left[0] and (1 in count or failed) and top == 0:
                images, failed = 1, failed - (1 not in count)
            else:
                images = min((c for c in count if c >= top), default=max(count))
            want.update([0] if images == 1 else range(1, images + 1))
        lost, surplus = want - have, have - want
        # One row for a file of several frames is that of the first.
        instead = min(surplus[0], lost[1])
        lost[1] -= instead
        surplus[0] -= instead
        return want.total(), +lost, +surplus


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
