"""Zip shards: read the central directory, then members by range requests.

Symbolic links to a member are images with the content of that member.
"""

import gzip
import lzma
import posixpath
import stat
import struct
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
ENCRYPTED, UTF8 = 0x1, 0x800
# Compression methods (APPNOTE.TXT 4.4.5) that zipfile does not read.
METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
UNICODE_PATH = 0x7075
UNIX = 3
LONGEST_PATH = 4096
MOST_HOPS = 40
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
        infos = _in_order(archive)
        if not (part and part[0]) and _hides_members(stream, infos):
            yield "", None, "the zip begins with members that its directory does not list"
        for info in infos[slice(*part) if part else slice(None)]:
            if _is_image(info):
                content, reason = _content(archive, info)
                yield member_name(info), content, reason


def names(stream: IO[bytes]) -> Iterator[str]:
    """The names of all images of a shard, in stored order."""
    with zipfile.ZipFile(stream) as archive:
        yield from (member_name(info) for info in _in_order(archive) if _is_image(info))


def find(stream: IO[bytes], wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The members called `wanted`, unless they cannot be unpacked."""
    with zipfile.ZipFile(stream) as archive:
        found = {name: i for i in archive.infolist() if (name := member_name(i)) in wanted}
        for name, info in found.items():
            content, _ = _content(archive, info)
            if content is not None:
                yield name, content


def member_name(info: zipfile.ZipInfo) -> str:
    """The name of a member as text.

    A name without the UTF-8 flag is in code page 437, by the standard. Many programs write UTF-8
    nevertheless, some of them in an extra field: what is valid UTF-8 is taken as such.
    """
    if info.flag_bits & UTF8:
        return naming.escaped(info.filename)
    try:
        stored = info.orig_filename.encode("cp437")
        name = _unicode_path(info.extra, stored) or stored.decode()
    except UnicodeError:
        return naming.escaped(info.filename)
    return naming.escaped(name.partition("\x00")[0])


def _unicode_path(extra: bytes, stored: bytes) -> str:
    """The name in Info-ZIP's Unicode Path Extra Field; empty if there is none for this name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and field[1:5] == struct.pack("<I", zlib.crc32(stored)):
            return field[5:].decode()
    return ""


def _in_order(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return sorted(archive.infolist(), key=lambda info: info.header_offset)


def _is_image(info: zipfile.ZipInfo) -> bool:
    return not info.filename.endswith("/") and not naming.is_sidecar(member_name(info))


def _hides_members(stream: IO[bytes], infos: list[zipfile.ZipInfo]) -> bool:
    """Whether the file begins with a member that is not in `infos`, as after `cat a.zip b.zip`."""
    stream.seek(0)
    return stream.read(4) == b"PK\x03\x04" and (not infos or infos[0].header_offset > 0)


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[bytes | None, str]:
    """The content of a member, or of the one that it links to, or the reason why there is none."""
    for _ in range(MOST_HOPS):
        content, reason = _unpacked(archive, info)
        if content is None or not _is_link(info):
            return content, reason
        target = content.decode("utf-8", "surrogateescape")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(info.filename), target))
        if path not in archive.NameToInfo:
            return None, f"a link to {naming.escaped(target)}, which is no file of the shard"
        info = archive.NameToInfo[path]
    return None, "the link leads back to itself"


def _is_link(info: zipfile.ZipInfo) -> bool:
    linked = info.create_system == UNIX and stat.S_ISLNK(info.external_attr >> 16)
    return linked and info.file_size <= LONGEST_PATH


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[bytes | None, str]:
    if reason := too_large(info.file_size):
        return None, reason
    if info.flag_bits & ENCRYPTED:
        return None, "cannot be unpacked: it is encrypted"
    if info.header_offset < 0:
        return None, "cannot be unpacked: the directory places it before the start of the zip"
    if info.compress_type in METHODS:
        return None, f"cannot be unpacked: the method {METHODS[info.compress_type]} is not read"
    try:
        return archive.read(info), ""
    except UNPACKING as error:
        return None, f"cannot be unpacked: {describe(error)}"
