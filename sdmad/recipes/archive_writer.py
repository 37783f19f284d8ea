"""Write images into tar shards, with a label table.

Files are copied unchanged. Only one shard at a time is in memory.
"""

import csv
import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sdmad import storage
from sdmad.archive.naming import split_frame
from sdmad.errors import UserError
from sdmad.inputs.labels import SPLITS
from sdmad.recipes.records import Record

SHARD_IMAGES = 1000
SHARD_BYTES = 64 << 20
COLUMNS = ("archive", "member", "patient_id", "split", "labels")
NORMAL = "normal"


@dataclass
class Tally:
    """Counts of a conversion: written images and patients, and images left out by reason.

    `labels` counts images by split and category (or `normal`).
    """

    shards: int = 0
    images: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    patients: dict[str, set[str]] = field(default_factory=lambda: {s: set() for s in SPLITS})
    left_out: Counter[str] = field(default_factory=Counter)

    def count(self, record: Record) -> None:
        """Count one record, written or left out."""
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
    """Write shards `<name>-00000.tar`, ... and then `labels.csv` below `uri`.

    A shard has at most `shard_images` images and `shard_bytes` bytes of files; a larger image gets
    its own shard, and the slices of a volume are in one. The same records give the same bytes.
    Raises `UserError` if `uri` is not empty or storage denies access.
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
    """Raise `UserError` if there is any object at or below `uri`."""
    first = next(iter(storage.list_objects(uri)), None)
    if first is not None:
        raise UserError(
            f"{uri} is not empty: it contains {storage.relative(first.uri, uri)}; choose another "
            "--output, or delete the files of an interrupted conversion"
        )


def _shards(
    records: Iterable[Record], tally: Tally, most_images: int, most_bytes: int
) -> Iterator[list[Record]]:
    """The records to write, in groups that fit a shard; counts every record in `tally`."""
    shard: list[Record] = []
    size = 0
    for record in records:
        tally.count(record)
        if record.left_out:
            continue
        new = not shard or shard[-1].path != record.path
        length = record.path.stat().st_size if new else 0
        if new and shard and (len(shard) >= most_images or size + length > most_bytes):
            yield shard
            shard, size = [], 0
        shard.append(record)
        size += length
    if shard:
        yield shard


def _tar(shard: list[Record]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        files = {split_frame(record.member)[0]: record.path for record in shard}
        for member, path in files.items():
            content = path.read_bytes()
            # Without owner and time, the bytes depend only on names and contents.
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
