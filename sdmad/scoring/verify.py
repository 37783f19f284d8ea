"""Checks that every image of an archive is exactly once in scores or failures.

    verify_scores("s3://bucket/odir", "s3://bucket/odir-scores").passed

The archive is read again, independently of the scoring run: shards by their headers, loose objects
by listing. The names found are compared with those in the tables. The plan of the run is used only
to recognise rows of objects that were removed from the archive after scoring. Files with several
frames (`x.dcm#frame=3`) are opened to count the frames.
"""

import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.archive import naming, parquets
from sdmad.archive.decode import count_frames
from sdmad.archive.limits import DAMAGE, is_damage
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members
from sdmad.archive.tars import StrictTarInfo
from sdmad.errors import UserError
from sdmad.scoring import tables
from sdmad.scoring.plan import read_plan
from sdmad.storage import StoredObject, storage_error

Name = tuple[str, str]
HEADER_BLOCK = 64 << 10


@dataclass
class Verdict:
    """Result of a verification; images are named as (archive, member).

    - `images`: images expected from the archive.
    - `scored`, `failed`: rows in scores and in failures.
    - `lost`: images in neither table. `doubled`: images with more than one row.
    - `foreign`: rows that never belonged to the archive.
    - `gone`: rows of objects that were removed from the archive after scoring.
    - `broken`: shards that cannot be read to their end. The unreadable rest must be one row in
      failures; images behind the break cannot be counted.
    """

    images: int = 0
    scored: int = 0
    failed: int = 0
    lost: list[Name] = field(default_factory=list)
    doubled: list[Name] = field(default_factory=list)
    foreign: list[Name] = field(default_factory=list)
    gone: list[Name] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.doubled or self.foreign)


def verify_scores(archive: str, output: str) -> Verdict:
    """Compare an archive with the tables of the scoring run at `output`.

    Raises `UserError` when the archive cannot be listed.
    """
    verdict = Verdict()
    expected: Counter[Name] = Counter()
    present: set[str] = set()
    with ThreadPoolExecutor(4) as pool:
        for entry, (names, broken) in pool.map(
            lambda entry: (entry, _names(archive, entry)), list_archive(archive)
        ):
            present.add(storage.relative(entry.uri, archive))
            expected.update(names)
            verdict.broken += broken
    for shard in verdict.broken:
        expected[shard, ""] += 1
    scored, failed = _rows(output, "scores"), _rows(output, "failures")
    actual = scored + failed
    _expand_frames(archive, expected, actual)
    verdict.images = expected.total()
    verdict.scored, verdict.failed = scored.total(), failed.total()
    verdict.lost = sorted((expected - actual).elements())
    surplus = actual - expected
    verdict.doubled = sorted(name for name in surplus if name in expected)
    left = _planned(output) - present
    for name in sorted(surplus):
        if name not in expected:
            gone = (name[0] or naming.split_frame(name[1])[0]) in left
            (verdict.gone if gone else verdict.foreign).append(name)
    return verdict


def _rows(output: str, kind: str) -> Counter[Name]:
    found: Counter[Name] = Counter()
    for table in tables.read_parts(output, kind):
        found.update(zip(table["archive"].to_pylist(), table["member"].to_pylist(), strict=True))
    return found


def _planned(output: str) -> set[str]:
    """Names of the planned objects in the archive; empty without a plan."""
    try:
        units, _ = read_plan(output)
    except UserError:
        return set()
    return {
        naming.clean(storage.relative(entry.uri, unit.base))
        for unit in units
        for entry in unit.objects
    }


def _expand_frames(archive: str, expected: Counter[Name], actual: Counter[Name]) -> None:
    """For files whose rows are frames, expect each frame of the file instead of the file."""
    by_frame: defaultdict[Name, set[int]] = defaultdict(set)
    for shard, member in actual:
        name, frame = naming.split_frame(member)
        if frame is not None and (shard, name) in expected and (shard, member) not in expected:
            by_frame[shard, name].add(frame)
    names = sorted(by_frame)
    # A few at a time, because such files are large.
    for start in range(0, len(names), 16):
        group = names[start : start + 16]
        for file, content in read_members(archive, group).items():
            copies = expected.pop(file)
            for frame in range(1, count_frames(content) + 1):
                expected[file[0], naming.frame_name(file[1], frame)] = copies


def _names(base: str, entry: StoredObject) -> tuple[list[Name], list[str]]:
    """The images of one object, and its name if it is a shard that cannot be read to its end."""
    name = naming.clean(storage.relative(entry.uri, base))
    kind = naming.shard_kind(entry.uri)
    if kind is None:
        return ([] if naming.is_sidecar(name) else [("", name)]), []
    found: list[Name] = []
    walk = {"tar": _walk_tar, "zip": _walk_zip, "parquet": _walk_parquet}[kind]
    try:
        # One by one, so that the names before a break in the shard are kept.
        for member in walk(entry):
            found.append((name, naming.clean(member)))  # noqa: PERF401
    except (OSError, *DAMAGE) as error:
        if not (is_damage(error) or isinstance(error, FileNotFoundError)):
            raise storage_error(entry.uri, error) from error
        return found, [name]
    return found, []


def _walk_tar(entry: StoredObject) -> Iterator[str]:
    with (
        storage.open_read(entry.uri, HEADER_BLOCK, entry) as stream,
        tarfile.open(fileobj=stream, mode="r:*", tarinfo=StrictTarInfo, errorlevel=2) as tar,
    ):
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]
            if info.isreg() and not naming.is_sidecar(info.name):
                yield info.name


def _walk_zip(entry: StoredObject) -> Iterator[str]:
    with (
        storage.open_read(entry.uri, HEADER_BLOCK, entry) as stream,
        zipfile.ZipFile(stream) as archive,
    ):
        for info in archive.infolist():
            if not info.is_dir() and not naming.is_sidecar(info.filename):
                yield info.filename


def _walk_parquet(entry: StoredObject) -> Iterator[str]:
    with storage.open_read(entry.uri, HEADER_BLOCK, entry) as stream:
        file = pq.ParquetFile(stream)
        where = parquets.columns(file.schema_arrow)
        if where is None:
            return
        if where.problem:
            raise pa.ArrowInvalid(where.problem)
        for group in range(file.num_row_groups):
            yield from parquets.row_names(file, where, group)
