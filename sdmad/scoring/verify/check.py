"""Compare the objects of one job with the rows in the tables of its units."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from sdmad.archive.naming import frame_name, split_frame
from sdmad.scoring import tables
from sdmad.scoring.census import rules
from sdmad.scoring.census.frames import Count
from sdmad.scoring.census.shards import count_loose, count_shard
from sdmad.scoring.verify.jobs import Job, Jobs
from sdmad.scoring.verify.verdict import Name, Verdict
from sdmad.storage import ChangedError


def check(job: Job, jobs: Jobs, slice_axis: str | None) -> Verdict:
    """Count the objects of a job and compare them with the rows in the tables of its units.

    Without `slice_axis`, files are not opened to count the images in each.
    """
    part = _Check(job, jobs)
    part.count(slice_axis)
    part.compare(part.read_rows())
    return part.verdict


class _Check:
    """One job: the images `expected`, by file, the shards that are `broken`, and objects whose
    content has `changed` since their rows were written."""

    def __init__(self, job: Job, jobs: Jobs) -> None:
        self.job, self.jobs = job, jobs
        self.verdict = Verdict()
        self.expected: defaultdict[Name, list[Count]] = defaultdict(list)
        self.broken: set[str] = set()
        self.changed = set(job.changed)

    def count(self, slice_axis: str | None) -> None:
        """Count what could be an image in the objects of the job."""
        for entry, why in zip(self.job.objects, self.job.why, strict=True):
            name = self.jobs.name(entry)
            kind = "" if why else rules.shard_kind(entry.uri)
            try:
                if kind:
                    census = count_shard(entry, kind, slice_axis)
                else:
                    census = count_loose(entry, name, why, slice_axis)
            except ChangedError:
                # The listing of a manifest does not tell.
                self.changed.add(name)
                self.verdict.add("changed", name)
                continue
            shard = name if kind else ""
            for member, count in census.images:
                self.expected[shard, member].append(count)
            self.verdict.left_out += census.left_out
            for member in census.suspects:
                self.verdict.add("suspects", (shard, member))
            if census.broken:
                self.broken.add(name)
                self.verdict.add("broken", name)
                self.expected[name, ""].append(None)

    def read_rows(self) -> "dict[Name, _Rows]":
        """The rows of finished units, by file."""
        found: defaultdict[Name, _Rows] = defaultdict(_Rows)
        for unit in self.job.units:
            for kind in (self.jobs.table, "failures"):
                table = tables.read_part(self.jobs.output, kind, unit, ("archive", "member"))
                if kind == "failures":
                    self.verdict.failed += table.num_rows
                else:
                    self.verdict.scored += table.num_rows
                columns = (table["archive"].to_pylist(), table["member"].to_pylist())
                for shard, member in zip(*columns, strict=True):
                    file, frame = self._file(shard, member)
                    if frame is not None:
                        found[file].frames[frame] += 1
                    elif kind == "failures":
                        found[file].failed += 1
                    else:
                        found[file].scored += 1
        return found

    def _file(self, shard: str, member: str) -> tuple[Name, int | None]:
        """The file that a row belongs to, and its frame."""
        frame: int | None = None
        if (shard, member) not in self.expected:
            name, number = split_frame(member)
            if (shard, name) in self.expected:
                member, frame = name, number
        if not member and shard and (shard, "") not in self.expected:
            # A shard that could not be read, where verification sees a loose file.
            shard, member = ("", shard) if ("", shard) in self.expected else (shard, "")
        return (shard, member), frame

    def compare(self, rows: "dict[Name, _Rows]") -> None:
        """Find the images without rows and the rows without images."""
        for file, counts in self.expected.items():
            self._settle(file, counts, rows.pop(file, _Rows()))
        named = {self.jobs.name(entry) for entry in self.job.objects}
        for (shard, member), found in rows.items():
            owner = shard or split_frame(member)[0]
            if owner in self.job.gone or (member in self.job.gone and not shard):
                gone = owner if owner in self.job.gone else member
                self.verdict.add("gone", gone, found.total)
            elif owner in self.changed or (member in self.changed and not shard):
                continue  # Rows of the content that it had.
            elif owner in named and (owner in self.broken or found.stand_for_all(shard, member)):
                self.verdict.images += found.total
            else:
                # Rows that belong to no object of their unit, or to none of its images.
                names = [shard] if shard else [member, split_frame(member)[0]]
                elsewhere = owner not in named and self.jobs.are_listed(names)
                self.verdict.add(
                    "doubled" if elsewhere else "foreign", (shard, member), found.total
                )

    def _settle(self, file: Name, counts: list[Count], rows: "_Rows") -> None:
        """Compare the rows of a file with the images that it may have."""
        wanted, lost, surplus = rows.compare(counts)
        self.verdict.images += wanted
        shard, member = file
        for frame, number in sorted(lost.items()):
            name = (shard, frame_name(member, frame or None))
            if self.job.pending:
                self.verdict.add("unscored", shard or member, number)
            else:
                self.verdict.add("lost", name, number)
        for frame, number in sorted(surplus.items()):
            name = (shard, frame_name(member, frame or None))
            known = frame == 0 or frame <= max((max(c) for c in counts if c), default=1)
            self.verdict.add("doubled" if known else "foreign", name, number)


@dataclass
class _Rows:
    """Rows of one file: those under its own name, in scores and in failures, and by frame."""

    scored: int = 0
    failed: int = 0
    frames: Counter[int] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.scored + self.failed + self.frames.total()

    def stand_for_all(self, shard: str, member: str) -> bool:
        """Whether they are failures of a shard or loose object that the scorer could not read."""
        return not self.scored and not self.frames and not (shard and member)

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
