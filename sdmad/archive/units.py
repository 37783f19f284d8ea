"""Work units: what one task reads, and what one file of scores covers."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from sdmad import storage
from sdmad.archive import naming
from sdmad.storage import StoredObject

LOOSE_OBJECTS_PER_UNIT = 256


@dataclass(frozen=True)
class WorkUnit:
    """One shard (`kind` "tar" or "zip") or loose objects ("objects") of the archive `base`.

    `id` is a hash over URIs, sizes and ETags: another content is another unit.
    """

    id: str
    kind: str
    base: str
    objects: tuple[StoredObject, ...]

    @staticmethod
    def of(kind: str, base: str, objects: Iterable[StoredObject]) -> "WorkUnit":
        objects = tuple(objects)
        digest = hashlib.sha256(kind.encode())
        for entry in objects:
            digest.update(f"\x1e{entry.uri}\x1f{entry.size}\x1f{entry.etag}".encode())
        return WorkUnit(digest.hexdigest()[:16], kind, base, objects)

    @property
    def archive(self) -> str:
        """The name of the shard relative to the archive's prefix; empty for loose objects."""
        return "" if self.kind == "objects" else storage.relative(self.objects[0].uri, self.base)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "WorkUnit":
        fields = json.loads(text)
        objects = tuple(StoredObject(**entry) for entry in fields.pop("objects"))
        return WorkUnit(objects=objects, **fields)


def cut_units(
    base: str, objects: Iterable[StoredObject], group: int = LOOSE_OBJECTS_PER_UNIT
) -> Iterator[WorkUnit]:
    """Cut a listing into work units: every shard, and every `group` loose images in order.

    Sidecar files are left out.
    """
    loose: list[StoredObject] = []
    for entry in objects:
        kind = naming.shard_kind(entry.uri)
        if kind:
            yield WorkUnit.of(kind, base, [entry])
        elif not naming.is_sidecar(storage.relative(entry.uri, base)):
            loose.append(entry)
            if len(loose) == group:
                yield WorkUnit.of("objects", base, loose)
                loose = []
    if loose:
        yield WorkUnit.of("objects", base, loose)
