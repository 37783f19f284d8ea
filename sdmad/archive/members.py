"""Read the images of work units.

    for member in read_unit(unit):
        member.name, member.content

The content is still encoded; `sdmad.archive.decode` decodes it.
"""

import time
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from sdmad import storage
from sdmad.archive import naming, parquets, tars, zips
from sdmad.archive.limits import DAMAGE, LARGEST_MEMBER_BYTES, Entry, describe, is_damage
from sdmad.archive.units import WorkUnit
from sdmad.storage import ObjectError, StoredObject, storage_error

WHOLE_SHARD_BYTES = 16 << 20
READ_BLOCK = 4 << 20
SEEK_BLOCK = 256 << 10
NAMES_KEPT = 2000


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

    Damaged content, missing objects and objects that alone cannot be read are members with a
    `reason`. Raises `UserError` if storage denies access or cannot be reached, or if an object has
    changed since it was planned. Then no score of the unit may be committed.
    """
    yield from (_read_objects(unit) if unit.kind == "objects" else _read_shard(unit))


def _read_objects(unit: WorkUnit) -> Iterator[Member]:
    def fetch(entry: StoredObject) -> tuple[bytes | None, str]:
        try:
            return storage.read_bytes(entry.uri, entry, LARGEST_MEMBER_BYTES), ""
        except FileNotFoundError:
            storage.check_visible(unit.base)
            return None, "cannot be read: the object does not exist"
        except ObjectError as error:
            return None, error.reason

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
    except ObjectError as error:
        reason = f"the shard {error.reason}"
    except (OSError, *DAMAGE) as error:
        if is_damage(error):
            reason = f"the shard breaks off: {describe(error)}"
        else:
            mistake = storage_error(shard.uri, error)
            if not isinstance(mistake, ObjectError):
                raise mistake from error
            reason = f"the shard {mistake.reason}"
    if reason:
        yield Member(shard.uri, archive, "", None, 0.0, reason)


def _entries(unit: WorkUnit, stream: IO[bytes]) -> Iterator[Entry]:
    if unit.kind == "tar":
        return tars.members(stream)
    if unit.kind == "zip":
        return zips.members(stream, unit.part)
    return parquets.members(stream, unit.part)


def read_members(base: str, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """The content of chosen files, by (archive, member) as given. Missing files are left out.

    A name that is not found matches one that differs only in `./` in front or in its Unicode
    normal form. Small shards and compressed tars are read whole. Of other shards only the headers
    and the wanted members are transferred.
    """
    by_archive: dict[str, set[str]] = {}
    for archive, member in wanted:
        by_archive.setdefault(archive, set()).add(member)
    one = storage.is_object(base)
    loose = by_archive.pop("", set())
    found: dict[tuple[str, str], bytes] = {}
    with ThreadPoolExecutor(4) as shards, ThreadPoolExecutor(8) as objects:
        files = {name: objects.submit(_read_loose, base, one, name) for name in sorted(loose)}
        jobs = {
            archive: shards.submit(_read_shard_members, base, one, archive, names)
            for archive, names in by_archive.items()
        }
        for name, file in files.items():
            if (content := file.result()) is not None:
                found["", name] = content
        for archive, job in jobs.items():
            found |= {(archive, name): content for name, content in job.result().items()}
    return found


def missing_members(base: str, archive: str, members: Iterable[str]) -> tuple[list[str], list[str]]:
    """Which of `members` are not in an archive, and names that are there and were not asked for.

    Only headers are read; of loose objects (`archive` is empty) each is looked for by its name.
    Names match as in `read_members`.
    """
    one = storage.is_object(base)
    if not archive:
        wanted = list(members)
        with ThreadPoolExecutor(8) as pool:
            there = pool.map(lambda name: _exists(base, one, name), wanted)
            return [n for n, exists in zip(wanted, there, strict=True) if not exists], []
    left = {naming.comparable(name): name for name in members}
    others: list[str] = []
    for name in _names(base, one, archive):
        if left.pop(naming.comparable(name), None) is None and len(others) < NAMES_KEPT:
            others.append(name)
    return sorted(left.values()), others


def _exists(base: str, one: bool, name: str) -> bool:
    return any(storage.exists(storage.located(form, base, one)) for form in _spellings(name))


def _names(base: str, one: bool, archive: str) -> Iterator[str]:
    """The names in a shard as far as it can be read; none if it does not exist."""
    for spelling in _spellings(archive):
        with suppress(FileNotFoundError):
            shard = storage.describe(storage.located(spelling, base, one))
            break
    else:
        return
    kind = naming.shard_kind(shard.uri)
    if kind is None:
        return
    try:
        with storage.open_read(shard.uri, SEEK_BLOCK, shard) as stream:
            yield from {"tar": tars, "zip": zips, "parquet": parquets}[kind].names(stream)
    except (OSError, *DAMAGE) as error:
        if not is_damage(error):
            raise storage_error(shard.uri, error) from error


def _spellings(name: str) -> list[str]:
    """A name as it is, and the other forms under which its file may be stored."""
    plain = naming.comparable(name)
    forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    return list(dict.fromkeys([name, *forms, *(f"./{form}" for form in forms)]))


def _read_loose(base: str, one: bool, name: str) -> bytes | None:
    for spelling in _spellings(name):
        with suppress(FileNotFoundError):
            return storage.read_bytes(storage.located(spelling, base, one))
    return None


def _read_shard_members(base: str, one: bool, archive: str, names: set[str]) -> dict[str, bytes]:
    for spelling in _spellings(archive):
        shard = storage.located(spelling, base, one)
        with suppress(FileNotFoundError):
            return _found(storage.describe(shard), names)
    return {}


def _found(shard: StoredObject, names: set[str]) -> dict[str, bytes]:
    """The members of a shard called `names`, or spelled otherwise as `comparable` allows."""
    kind = naming.shard_kind(shard.uri)
    if kind is None:
        return {}
    reader = {"tar": tars, "zip": zips, "parquet": parquets}[kind]
    compressed = kind == "tar" and not shard.uri.lower().endswith(".tar")
    block = READ_BLOCK if compressed or shard.size <= WHOLE_SHARD_BYTES else SEEK_BLOCK
    found: dict[str, bytes] = {}
    # Members that are missing, or stored after damage, are left out.
    try:
        with storage.open_read(shard.uri, block, shard) as stream:
            for name, content in reader.find(stream, names):
                found[name] = content  # noqa: PERF403 - keeps what comes before damage
            missing = {naming.comparable(name): name for name in names - found.keys()}
            if missing:
                stored = {
                    name: missing[naming.comparable(name)]
                    for name in reader.names(stream)
                    if naming.comparable(name) in missing
                }
                for name, content in reader.find(stream, set(stored)) if stored else ():
                    found.setdefault(stored[name], content)
    except (OSError, *DAMAGE) as error:
        if not is_damage(error):
            raise storage_error(shard.uri, error) from error
    return found
