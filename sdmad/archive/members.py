"""Read the images of work units.

    for member in read_unit(unit):
        member.name, member.content

The content is still encoded; `sdmad.archive.decode` decodes it.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from sdmad import storage
from sdmad.archive import naming, parquets, tars, zips
from sdmad.archive.limits import DAMAGE, Entry, describe, is_damage, too_large
from sdmad.archive.units import WorkUnit
from sdmad.storage import StoredObject, storage_error

WHOLE_SHARD_BYTES = 16 << 20
READ_BLOCK = 4 << 20
SEEK_BLOCK = 256 << 10


@dataclass(frozen=True)
class Member:
    """One file of a unit as it is stored, or the `reason` why it has no `content`.

    `uri` is the URI of the object. `seconds` is the time that reading took. A shard that cannot be
    read to its end has one more member, with an empty `name` and the reason.
    """

    uri: str
    archive: str
    name: str
    content: bytes | None
    seconds: float = 0.0
    reason: str = ""


def read_unit(unit: WorkUnit) -> Iterator[Member]:
    """Every file of a unit in stored order, read as a stream.

    Damaged content and missing objects are members with a `reason`. Raises `UserError` if storage
    denies access or cannot be reached, or if an object has changed since it was planned. Then no
    score of the unit may be committed.
    """
    yield from (_read_objects(unit) if unit.kind == "objects" else _read_shard(unit))


def _read_objects(unit: WorkUnit) -> Iterator[Member]:
    def fetch(entry: StoredObject) -> tuple[bytes | None, str]:
        if reason := too_large(entry.size):
            return None, reason
        content, reason = None, ""
        try:
            content = storage.read_bytes(entry.uri, entry)
        except FileNotFoundError:
            storage.check_visible(unit.base)
            reason = "cannot be read: the object does not exist"
        return content, reason

    with ThreadPoolExecutor(8) as pool:
        # 16 objects at a time: requests overlap, and memory stays small.
        for start in range(0, len(unit.objects), 16):
            group = unit.objects[start : start + 16]
            results = pool.map(fetch, group)
            for entry in group:
                # Requests overlap, so this measures the wait of this process, not one request.
                begin = time.monotonic()
                content, reason = next(results)
                seconds = time.monotonic() - begin
                name = storage.relative(entry.uri, unit.base)
                yield Member(entry.uri, "", name, content, seconds, reason)


def _read_shard(unit: WorkUnit) -> Iterator[Member]:
    shard, archive = unit.objects[0], unit.archive
    reason = ""
    start = time.monotonic()
    try:
        with storage.open_read(shard.uri, READ_BLOCK, shard) as stream:
            for name, content, problem in _entries(unit, stream):
                seconds = time.monotonic() - start
                yield Member(shard.uri, archive, name, content, seconds, problem)
                start = time.monotonic()
    except FileNotFoundError:
        storage.check_visible(unit.base)
        reason = "the shard cannot be read: the object does not exist"
    except (OSError, *DAMAGE) as error:
        if not is_damage(error):
            raise storage_error(shard.uri, error) from error
        reason = f"the shard breaks off: {describe(error)}"
    if reason:
        yield Member(shard.uri, archive, "", None, 0.0, reason)


def _entries(unit: WorkUnit, stream: IO[bytes]) -> Iterator[Entry]:
    if unit.kind == "tar":
        return tars.members(stream)
    if unit.kind == "zip":
        return zips.members(stream, unit.part)
    return parquets.members(stream, unit.part)


def read_members(base: str, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """The content of chosen files, by (archive, member). Missing files are left out.

    Small shards and compressed tars are read whole. Of other shards only the headers and the wanted
    members are transferred.
    """
    by_archive: dict[str, set[str]] = {}
    for archive, member in wanted:
        by_archive.setdefault(archive, set()).add(member)
    one = storage.is_object(base)
    found: dict[tuple[str, str], bytes] = {}
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(_read_shard_members, storage.located(archive, base, one), names)
            if archive
            else pool.submit(_read_loose, base, one, names)
            for archive, names in by_archive.items()
        ]
        for archive, job in zip(by_archive, jobs, strict=True):
            found |= {(archive, name): content for name, content in job.result().items()}
    return found


def _read_loose(base: str, one: bool, names: set[str]) -> dict[str, bytes]:
    found = {}
    for name in sorted(names):
        with suppress(FileNotFoundError):
            found[name] = storage.read_bytes(storage.located(name, base, one))
    return found


def _read_shard_members(shard: str, names: set[str]) -> dict[str, bytes]:
    kind = naming.shard_kind(shard)
    compressed = kind == "tar" and not shard.lower().endswith(".tar")
    found: dict[str, bytes] = {}
    # Members that are missing, or stored after damage, are left out.
    try:
        entry = storage.describe(shard)
        whole = compressed or entry.size <= WHOLE_SHARD_BYTES
        with storage.open_read(shard, READ_BLOCK if whole else SEEK_BLOCK, entry) as stream:
            if kind == "tar":
                pairs = tars.find(stream, names, compressed)
            else:
                pairs = (zips if kind == "zip" else parquets).find(stream, names)
            for name, content in pairs:
                found[name] = content  # noqa: PERF403 - keeps what comes before damage
    except FileNotFoundError:
        return {}
    except (OSError, *DAMAGE) as error:
        if not is_damage(error):
            raise storage_error(shard, error) from error
    return found
