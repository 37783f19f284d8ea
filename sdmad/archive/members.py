"""Reading the images of work units, still encoded.

for member in read_unit(unit):
    member.name, member.content
"""

import contextlib
import gzip
import lzma
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from sdmad import storage
from sdmad.archive import naming
from sdmad.archive.tar import StrictTarInfo
from sdmad.archive.units import WorkUnit

ATTEMPTS = 4
WHOLE_SHARD_BYTES = 16 << 20
LARGEST_MEMBER_BYTES = 2 << 30
READ_BLOCK = 4 << 20
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile),
    *(EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError),
)
# What zipfile raises for one member that it cannot unpack: damage, encryption, unknown methods.
ZIP_MEMBER = (*DAMAGE, NotImplementedError, RuntimeError)
SEEK_BLOCK = 256 << 10


@dataclass(frozen=True)
class Member:
    """One image of a unit as it is stored; `reason` says why there is no `content`.

    A shard that breaks off is one more member, without a name. `seconds` is the time of reading.
    """

    index: int
    uri: str
    archive: str
    name: str
    content: bytes | None
    seconds: float = 0.0
    reason: str = ""


def read_unit(unit: WorkUnit) -> Iterator[Member]:
    """Every image of a unit in stored order, read as a stream.

    Bad content and vanished objects are members with a reason. Raises `UserError` when storage
    refuses or stays out of reach: then nothing of the unit may be committed.
    """
    yield from (_read_objects(unit) if unit.kind == "objects" else _read_shard(unit))


def _read_objects(unit: WorkUnit) -> Iterator[Member]:
    def fetch(entry: storage.StoredObject) -> tuple[bytes | None, float, str]:
        start = time.monotonic()
        if entry.size > LARGEST_MEMBER_BYTES:
            return None, 0.0, f"too large: {entry.size} bytes"
        content, reason = None, ""
        try:
            content = _with_retries(entry.uri)
        except FileNotFoundError as error:
            storage.check_visible(unit.base)
            reason = f"cannot be read: {_describe(error)}"
        return content, time.monotonic() - start, reason

    with ThreadPoolExecutor(8) as pool:
        # Sixteen at a time: requests overlap, memory stays small.
        for start in range(0, len(unit.objects), 16):
            group = unit.objects[start : start + 16]
            results = zip(group, pool.map(fetch, group), strict=True)
            for offset, (entry, (content, seconds, reason)) in enumerate(results):
                name = storage.relative(entry.uri, unit.base)
                yield Member(start + offset, entry.uri, "", name, content, seconds, reason)


def _with_retries(uri: str) -> bytes:
    """The whole object. Raises `FileNotFoundError`, or `UserError` when storage gives up."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return storage.read_bytes(uri)
        except FileNotFoundError:
            raise
        except storage.STORAGE_ERRORS as error:
            _wait_or_give_up(uri, error, attempt)
    raise AssertionError("the last attempt returns or raises")


def _wait_or_give_up(uri: str, error: Exception, attempt: int) -> None:
    """Refusals and lasting outages end the run, and the unit stays undone: they are not the
    image's fault, and the same command resumes."""
    if attempt == ATTEMPTS or isinstance(error, PermissionError):
        raise storage.storage_error(uri, error) from error
    time.sleep(0.2 * 2**attempt)


def _read_shard(unit: WorkUnit) -> Iterator[Member]:
    uri, archive = unit.objects[0].uri, unit.archive
    stream = _tar_stream if unit.kind == "tar" else _zip_stream
    done = 0
    for attempt in range(1, ATTEMPTS + 1):
        start = time.monotonic()
        try:
            for position, (name, content, reason) in enumerate(stream(uri)):
                if position < done:
                    continue
                seconds = time.monotonic() - start
                yield Member(
                    done, naming.image_uri(uri, name), archive, name, content, seconds, reason
                )
                done += 1
                start = time.monotonic()
            return
        except DAMAGE as error:
            yield _broken(unit, done, f"the shard breaks off: {_describe(error)}")
            return
        except FileNotFoundError as error:
            storage.check_visible(unit.base)
            yield _broken(unit, done, f"the shard cannot be read: {_describe(error)}")
            return
        except storage.STORAGE_ERRORS as error:
            _wait_or_give_up(uri, error, attempt)


def _broken(unit: WorkUnit, index: int, reason: str) -> Member:
    return Member(index, unit.objects[0].uri, unit.archive, "", None, 0.0, reason)


def _tar_stream(uri: str) -> Iterator[tuple[str, bytes | None, str]]:
    """Name, content and reason of every image member, reading the shard once, front to back."""
    with (
        storage.open_read(uri, READ_BLOCK) as stream,
        tarfile.open(fileobj=stream, mode="r|*", tarinfo=StrictTarInfo, errorlevel=2) as tar,
    ):
        for info in tar:
            # tarfile remembers every member; a stream never goes back to one.
            tar.members = []  # type: ignore[attr-defined]
            if not info.isreg() or naming.is_sidecar(info.name):
                continue
            if info.size > LARGEST_MEMBER_BYTES:
                yield info.name, None, f"too large: {info.size} bytes"
                continue
            handle = tar.extractfile(info)
            try:
                content = handle.read() if handle else b""
            except tarfile.ReadError:
                yield info.name, None, "the shard breaks off within this image"
                raise
            yield info.name, content, ""


def _zip_stream(uri: str) -> Iterator[tuple[str, bytes | None, str]]:
    """Name, content and reason of every image member of a zip, in the order of its data.

    The central directory is read from the end, members by range reads; a member's checksum (or
    method, or password) is its own failure, the others are read.
    """
    with storage.open_read(uri, READ_BLOCK) as stream, zipfile.ZipFile(stream) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            if info.is_dir() or naming.is_sidecar(info.filename):
                continue
            content, reason = None, ""
            if info.file_size > LARGEST_MEMBER_BYTES:
                reason = f"too large: {info.file_size} bytes"
            else:
                try:
                    content = archive.read(info)
                except ZIP_MEMBER as error:
                    reason = f"cannot be unpacked: {_describe(error)}"
            yield info.filename, content, reason


def _describe(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def read_members(base: str, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """The content of chosen images, by (archive, member); those that are not there are left out.

    A small shard is fetched in one request; in a large one headers are read and the data between
    them is skipped, so that only the wanted members are transferred.
    """
    by_archive: dict[str, set[str]] = {}
    for archive, member in wanted:
        by_archive.setdefault(archive, set()).add(member)
    jobs = [(storage.join(base, a) if a else "", a, names) for a, names in by_archive.items()]
    found: dict[tuple[str, str], bytes] = {}
    with ThreadPoolExecutor(4) as pool:
        for part in pool.map(lambda job: _read_some(base, *job), jobs):
            found.update(part)
    return found


def _read_some(
    base: str, shard: str, archive: str, names: set[str]
) -> dict[tuple[str, str], bytes]:
    found: dict[tuple[str, str], bytes] = {}
    if not archive:
        for name in sorted(names):
            uri = storage.join(base, name)
            try:
                found["", name] = _with_retries(uri)
            except FileNotFoundError:
                continue
        return found
    if storage.name(base) == archive and naming.shard_kind(base):
        shard = base
    if naming.shard_kind(archive) == "zip":
        with contextlib.suppress(FileNotFoundError, *ZIP_MEMBER):
            found.update(_zip_members(shard, archive, names))
        return found
    try:
        small = storage.size(shard) <= WHOLE_SHARD_BYTES
    except FileNotFoundError:
        return found
    compressed = not shard.lower().endswith(".tar")
    block = READ_BLOCK if small or compressed else SEEK_BLOCK
    # What stands behind a break is not there, for this purpose.
    with contextlib.suppress(*DAMAGE), storage.open_read(shard, block) as stream:
        mode: Literal["r|*", "r:"] = "r|*" if compressed else "r:"
        with tarfile.open(fileobj=stream, mode=mode) as tar:
            for info in tar:
                if info.isreg() and info.name in names:
                    handle = tar.extractfile(info)
                    found[archive, info.name] = handle.read() if handle else b""
                    if len(found) == len(names):
                        break
    return found


def _zip_members(shard: str, archive: str, names: set[str]) -> dict[tuple[str, str], bytes]:
    with storage.open_read(shard, SEEK_BLOCK) as stream, zipfile.ZipFile(stream) as opened:
        there = names & set(opened.namelist())
        return {(archive, name): opened.read(name) for name in sorted(there)}
