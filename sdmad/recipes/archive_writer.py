"""Writing an archive: images into tar shards, and their label table.

File contents are copied unchanged. One shard at a time is in memory.
"""

import csv
import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sdmad import storage
from sdmad.errors import UserError
from sdmad.inputs.labels import SPLITS
from sdmad.recipes.records import Record

SHARD_IMAGES = 1000
SHARD_BYTES = 64 << 20
COLUMNS = ("archive", "member", "patient_id", "split", "labels")
NORMAL = "normal"


@dataclass
class Tally:
    """What was written: images by split and category (or `normal`), by split, and left out."""

    shards: int = 0
    images: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    patients: dict[str, set[str]] = field(default_factory=lambda: {s: set() for s in SPLITS})
    left_out: Counter[str] = field(default_factory=Counter)

    def count(self, record: Record) -> None:
        """Add one record, written or left out."""
        if record.left_out:
            self.left_out[record.left_out] += 1
            return
        self.images[record.split] += 1
        self.patients[record.split].add(record.patient_id)
        for label in record.labels or (NORMAL,):
            self.labels[record.split, label] += 1


def write_archive(
    records: Iterable[Record],
    uri: str,
    name: str,
    shard_images: int = SHARD_IMAGES,
    shard_bytes: int = SHARD_BYTES,
) -> Tally:
    """Write shards `<name>-00000.tar`, ... and, when all are there, `labels.csv` below `uri`.

    A shard ends at `shard_images` images or before `shard_bytes` of contents; a larger image has
    one of its own. The same records give the same bytes. Raises `UserError` when there is
    something at `uri` already, or storage refuses.
    """
    check_empty(uri)
    tally = Tally()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, shard in enumerate(_shards(records, tally, shard_images, shard_bytes)):
        archive = f"{name}-{number:05d}.tar"
        storage.write_bytes(storage.join(uri, archive), _tar(shard))
        for record in shard:
            labels = ";".join(record.labels)
            writer.writerow((archive, record.member, record.patient_id, record.split, labels))
        tally.shards += 1
    storage.write_bytes(storage.join(uri, "labels.csv"), table.getvalue().encode())
    return tally


def check_empty(uri: str) -> None:
    """Raise `UserError` when there is any object at or below `uri`."""
    first = next(iter(storage.list_objects(uri)), None)
    if first is not None:
        raise UserError(
            f"{uri} is not empty ({storage.relative(first.uri, uri)} is there); choose another "
            "--output, or remove what an interrupted conversion left"
        )


def _shards(
    records: Iterable[Record], tally: Tally, most_images: int, most_bytes: int
) -> Iterator[list[Record]]:
    """Records that are written, in groups that fit a shard; counts all of them."""
    shard: list[Record] = []
    size = 0
    for record in records:
        tally.count(record)
        if record.left_out:
            continue
        length = record.path.stat().st_size
        if shard and (len(shard) == most_images or size + length > most_bytes):
            yield shard
            shard, size = [], 0
        shard.append(record)
        size += length
    if shard:
        yield shard


def _tar(shard: list[Record]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for record in shard:
            content = record.path.read_bytes()
            # No owner, no time: the bytes of a shard follow from names and contents.
            info = tarfile.TarInfo(record.member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
