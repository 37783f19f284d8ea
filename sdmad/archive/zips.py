"""Zip shards: read the central directory, then members by range requests."""

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import IO

from sdmad.archive import naming
from sdmad.archive.limits import Entry, describe, too_large

# What zipfile raises for a member that it cannot unpack: damage, encryption, unknown method.
UNPACKING = (
    *(zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError),
    *(NotImplementedError, RuntimeError, UnicodeDecodeError, ValueError),
)
PART_BYTES = 64 << 20
PART_MEMBERS = 1024


def parts(stream: IO[bytes]) -> list[tuple[int, int]]:
    """Ranges of members in stored order, each of about `PART_BYTES` or `PART_MEMBERS`."""
    with zipfile.ZipFile(stream) as archive:
        infos = _in_order(archive)
    cuts, size = [0], 0
    for position, info in enumerate(infos):
        size += info.compress_size
        if size >= PART_BYTES or position + 1 - cuts[-1] >= PART_MEMBERS:
            cuts.append(position + 1)
            size = 0
    if cuts[-1] < len(infos) or len(cuts) == 1:
        cuts.append(len(infos))
    return list(pairwise(cuts))


def members(stream: IO[bytes], part: tuple[int, int] | None) -> Iterator[Entry]:
    """Every image of a shard, or of a range of its members, in stored order.

    A member that cannot be unpacked (checksum, method, password) has a reason; the others are read.
    """
    with zipfile.ZipFile(stream) as archive:
        for info in _in_order(archive)[slice(*part) if part else slice(None)]:
            if info.is_dir() or naming.is_sidecar(info.filename):
                continue
            content, reason = None, too_large(info.file_size)
            if not reason:
                try:
                    content = archive.read(info)
                except UNPACKING as error:
                    reason = f"cannot be unpacked: {describe(error)}"
            yield info.filename, content, reason


def find(stream: IO[bytes], names: set[str]) -> Iterator[tuple[str, bytes]]:
    """The members called `names`."""
    with zipfile.ZipFile(stream) as archive:
        for name in sorted(names & set(archive.namelist())):
            yield name, archive.read(name)


def _in_order(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return sorted(archive.infolist(), key=lambda info: info.header_offset)
