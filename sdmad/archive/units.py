"""Work units: what one task reads, and what one file of scores covers."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from sdmad import storage
from sdmad.archive import naming, parquets, zips
from sdmad.archive.limits import DAMAGE, is_damage
from sdmad.errors import UserError
from sdmad.storage import ObjectError, StoredObject, storage_error

LOOSE_OBJECTS_PER_UNIT = 256
FOOTER_BLOCK = 256 << 10
Part = tuple[int, int]


@dataclass(frozen=True)
class WorkUnit:
    """One shard (`kind` "tar", "zip", "parquet"), a part of one, or loose objects ("objects").

    `part` is a range of a zip's members or of a Parquet file's row groups. `id` is a hash of URIs,
    sizes, ETags and part, so changed content gives another unit.
    """

    id: str
    kind: str
    base: str
    objects: tuple[StoredObject, ...]
    part: Part | None = None

    @staticmethod
    def of(
        kind: str, base: str, objects: Iterable[StoredObject], part: Part | None = None
    ) -> "WorkUnit":
        objects = tuple(objects)
        digest = hashlib.sha256(kind.encode())
        for entry in objects:
            name = entry.uri.encode("utf-8", "surrogateescape")
            digest.update(b"\x1e%b\x1f%d\x1f%b" % (name, entry.size, entry.etag.encode()))
        if part:
            digest.update(f"\x1d{part[0]}:{part[1]}".encode())
        return WorkUnit(digest.hexdigest()[:16], kind, base, objects, part)

    @property
    def archive(self) -> str:
        """The path of the shard below the prefix of the archive; empty for loose objects."""
        return "" if self.kind == "objects" else storage.relative(self.objects[0].uri, self.base)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "WorkUnit":
        fields = json.loads(text)
        objects = tuple(StoredObject(**entry) for entry in fields.pop("objects"))
        part = fields.pop("part")
        return WorkUnit(objects=objects, part=tuple(part) if part else None, **fields)


def cut_units(
    base: str, objects: Iterable[StoredObject], group: int = LOOSE_OBJECTS_PER_UNIT
) -> Iterator[WorkUnit]:
    """Cut a listing into work units: each shard or its parts, and groups of `group` loose images.

    Sidecars are left out, including Parquet files without a column of images. Parquet files, and
    zips larger than 2 * `zips.PART_BYTES`, are opened to find their parts. Raises `UserError` for
    an archive in a format that is not read, such as 7z.
    """
    loose: list[StoredObject] = []
    opened: list[tuple[str, StoredObject]] = []
    for entry in objects:
        kind = naming.shard_kind(entry.uri)
        if kind == "tar" or (kind == "zip" and entry.size <= 2 * zips.PART_BYTES):
            yield WorkUnit.of(kind, base, [entry])
        elif kind:
            opened.append((kind, entry))
        elif not naming.is_sidecar(storage.relative(entry.uri, base)):
            _check_format(entry.uri)
            loose.append(entry)
            if len(loose) == group:
                yield WorkUnit.of("objects", base, loose)
                loose = []
    if loose:
        yield WorkUnit.of("objects", base, loose)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda job: _parts(*job), opened)
        for (kind, entry), parts in zip(opened, found, strict=True):
            yield from (WorkUnit.of(kind, base, [entry], part) for part in parts)


def _check_format(uri: str) -> None:
    """Raise `UserError` for an archive that would be taken for one image."""
    if suffix := naming.closed_format(uri):
        raise UserError(
            f"{uri} cannot be read, because {suffix} is not a format of shards; repack it as .tar, "
            ".tar.zst or .zip, or name the other objects in a manifest"
        )


def _parts(kind: str, entry: StoredObject) -> list[Part | None]:
    """The parts of a shard; [None] for the whole shard, [] for a table without images."""
    try:
        with storage.open_read(entry.uri, FOOTER_BLOCK, entry) as stream:
            found = zips.parts(stream) if kind == "zip" else parquets.parts(stream)
    except ObjectError:
        return [None]
    except (OSError, *DAMAGE) as error:
        if not (is_damage(error) or isinstance(error, FileNotFoundError)):
            raise storage_error(entry.uri, error) from error
        return [None]
    if found is None:
        return []
    return list(found) if len(found) > 1 else [None]
