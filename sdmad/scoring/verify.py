"""Proof that every image of an archive stands exactly once in scores or failures.

An independent reading: shards are walked with `tarfile` in random access (headers only), loose
objects are listed, and the names are compared with those in the tables. Nothing of the scoring
run's plan or bookkeeping is used.
"""

import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sdmad import storage
from sdmad.archive import naming
from sdmad.archive.members import DAMAGE
from sdmad.archive.tar import StrictTarInfo
from sdmad.scoring import tables
from sdmad.storage import StoredObject

Name = tuple[str, str]
HEADER_BLOCK = 64 << 10


@dataclass
class Verdict:
    """Counts of a verification; `lost`, `doubled` and `foreign` have names as (archive, member).

    `broken` are shards that cannot be walked to their end: their unreadable rest must be a row in
    failures, and members behind the break are not known to anyone.
    """

    images: int = 0
    scored: int = 0
    failed: int = 0
    lost: list[Name] = field(default_factory=list)
    doubled: list[Name] = field(default_factory=list)
    foreign: list[Name] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.doubled or self.foreign)


def verify_scores(archive: str, output: str) -> Verdict:
    """Compare the archive with the tables of the scoring run at `output`.

    Raises `UserError` when the archive cannot be listed.
    """
    verdict = Verdict()
    expected: Counter[Name] = Counter()
    with ThreadPoolExecutor(4) as pool:
        objects = storage.list_objects(archive)
        for names, broken in pool.map(lambda entry: _names(archive, entry), objects):
            expected.update(names)
            verdict.broken += broken
    scored = _rows(output, "scores")
    failed = _rows(output, "failures")
    for shard in verdict.broken:
        expected[shard, ""] += 1
    actual = scored + failed
    verdict.images = expected.total()
    verdict.scored, verdict.failed = scored.total(), failed.total()
    verdict.lost = sorted((expected - actual).elements())
    surplus = actual - expected
    verdict.doubled = sorted(name for name in surplus if name in expected)
    verdict.foreign = sorted(name for name in surplus if name not in expected)
    return verdict


def _rows(output: str, kind: str) -> Counter[Name]:
    found: Counter[Name] = Counter()
    for table in tables.read_parts(output, kind):
        found.update(zip(table["archive"].to_pylist(), table["member"].to_pylist(), strict=True))
    return found


def _names(base: str, entry: StoredObject) -> tuple[list[Name], list[str]]:
    """The images of one object, and its name if it is a shard that breaks off."""
    name = storage.relative(entry.uri, base)
    kind = naming.shard_kind(entry.uri)
    if kind is None:
        return ([] if naming.is_sidecar(name) else [("", name)]), []
    found: list[Name] = []
    try:
        # One by one: what stands before a break in the shard is kept.
        for member in _walk_tar(entry.uri) if kind == "tar" else _walk_zip(entry.uri):
            found.append((name, member))  # noqa: PERF401
    except DAMAGE:
        return found, [name]
    return found, []


def _walk_tar(uri: str) -> Iterator[str]:
    with (
        storage.open_read(uri, HEADER_BLOCK) as stream,
        tarfile.open(fileobj=stream, mode="r:*", tarinfo=StrictTarInfo, errorlevel=2) as tar,
    ):
        for info in tar:
            if info.isreg() and not naming.is_sidecar(info.name):
                yield naming.clean(info.name)


def _walk_zip(uri: str) -> Iterator[str]:
    with storage.open_read(uri, HEADER_BLOCK) as stream, zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.is_dir() and not naming.is_sidecar(info.filename):
                yield naming.clean(info.filename)
