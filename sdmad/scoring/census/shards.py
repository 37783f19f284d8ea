"""Count what could be an image in one object of an archive; for verification."""

import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from errno import EINVAL
from lzma import LZMAError
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.archive.naming import escaped
from sdmad.errors import UserError
from sdmad.scoring.census import frames, parquet, rules, tar
from sdmad.scoring.census.frames import Count
from sdmad.scoring.census.listing import UNKNOWN
from sdmad.storage import ObjectError, StoredObject, storage_error

HEAD = 64 << 10
LARGEST = 1 << 30
DAMAGE = (
    *(tar.DamagedTarError, zipfile.BadZipFile, pa.ArrowException, zlib.error, LZMAError),
    *(EOFError, struct.error, ValueError, LookupError, TypeError, OverflowError),
    *(NotImplementedError, RuntimeError, FileNotFoundError),
)


@dataclass
class Census:
    """What is in one object, or in several.

    `images` has name and possible numbers of images of each file. `left_out` counts files that
    cannot be images, by kind and suffix; `suspects` are those of them that begin like an image.
    `broken` is set if a shard cannot be read to its end.
    """

    images: list[tuple[str, Count]] = field(default_factory=list)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    suspects: list[str] = field(default_factory=list)
    broken: bool = False

    def leave_out(self, name: str, kind: str, detail: str, start: bytes) -> None:
        self.left_out[kind, detail] += 1
        if frames.begins_like_image(start):
            self.suspects.append(name)


def count_shard(entry: StoredObject, kind: str, slice_axis: str | None) -> Census:
    """Everything in a shard; with `slice_axis`, also the images in each file (`frames.count`)."""
    census = Census()
    count = {"tar": _count_tar, "zip": _count_zip, "parquet": _count_parquet}[kind]
    try:
        with _opened(entry) as stream:
            count(stream, census, slice_axis)
    except ObjectError:
        census.broken = True
    except UserError:
        raise
    except OSError as error:
        # Decompressors and Arrow raise it for damage, without a number of the system.
        if error.errno not in (None, EINVAL) and not isinstance(error, FileNotFoundError):
            raise storage_error(entry.uri, error) from error
        census.broken = True
    except DAMAGE:
        census.broken = True
    return census


def count_loose(entry: StoredObject, name: str, why: str, slice_axis: str | None) -> Census:
    """A loose object; `why` is the kind of one that cannot be an image."""
    census = Census()
    kind, detail = (why, "") if why else rules.why_no_image(name)
    if not kind and slice_axis is None:
        census.images.append((name, None))
        return census
    known = entry.size > 0 or entry.size == UNKNOWN
    found: Count = None
    start = b""
    try:
        if known and entry.size <= LARGEST:
            with _opened(entry) as stream:
                if kind:
                    start = stream.read(132)
                elif slice_axis is not None:
                    found = frames.count(stream, slice_axis)
    except ObjectError:
        pass  # Storage refuses this object alone: it is one row, in failures.
    except (UserError, OSError) as error:
        if isinstance(error, UserError) and not isinstance(error.__cause__, OSError):
            raise
    if kind:
        census.leave_out(name, kind, detail, start)
    else:
        census.images.append((name, found))
    return census


def _opened(entry: StoredObject) -> IO[bytes]:
    known = entry.size != UNKNOWN
    return storage.open_read(entry.uri, HEAD, entry if known else None)


def _count_tar(stream: IO[bytes], census: Census, slice_axis: str | None) -> None:
    for member in tar.walk(stream):
        name = escaped(member.name)
        if member.kind == "folder":
            continue
        if member.kind == "special":
            census.left_out["pipes, sockets and devices", ""] += 1
            continue
        kind, detail = rules.why_no_image(member.name)
        if kind:
            census.leave_out(name, kind, detail, member.content().read(132))
            continue
        opened = member.kind == "file" and 0 < member.size <= LARGEST
        # Listed before it is opened: the tar may break off inside of it.
        census.images.append((name, None))
        if opened and slice_axis is not None:
            census.images[-1] = (name, frames.count(member.content(), slice_axis))


def _count_zip(stream: IO[bytes], census: Census, slice_axis: str | None) -> None:
    with zipfile.ZipFile(stream) as archive:
        infos = archive.infolist()
        stream.seek(0)
        begins_with_member = stream.read(4) == b"PK\x03\x04"
        if begins_with_member and all(info.header_offset > 0 for info in infos):
            # Nobody knows what else is in front of the members that the directory lists.
            census.broken = True
        for info in infos:
            name = _zip_name(info)
            if info.filename.endswith("/"):
                continue
            kind, detail = rules.why_no_image(name)
            found, start = None, b""
            if kind or (slice_axis is not None and 0 < info.file_size <= LARGEST):
                try:
                    with archive.open(info) as content:
                        if kind:
                            start = content.read(132)
                        elif slice_axis is not None:
                            found = frames.count(content, slice_axis)
                except (*DAMAGE, zipfile.LargeZipFile):
                    found = None
                except OSError as error:
                    # A place before the start of the file is damage too.
                    if error.errno not in (None, EINVAL):
                        raise
            if kind:
                census.leave_out(name, kind, detail, start)
            else:
                census.images.append((name, found))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """UTF-8 if the flag, the Unicode path field (APPNOTE.TXT 4.6.9) or the bytes say so, or the
    name in code page 437."""
    if info.flag_bits & 0x800:
        return escaped(info.filename)
    try:
        stored = info.orig_filename.encode("cp437")
        fields, at = info.extra, 0
        while at + 4 <= len(fields):
            kind, size = struct.unpack_from("<HH", fields, at)
            value, at = fields[at + 4 : at + 4 + size], at + 4 + size
            told = value[1:5] == zlib.crc32(stored).to_bytes(4, "little")
            if kind == 0x7075 and told and value[5:]:
                stored = value[5:]
                break
        return escaped(stored.decode().split("\0", 1)[0])
    except UnicodeError:
        return escaped(info.filename)


def _count_parquet(stream: IO[bytes], census: Census, slice_axis: str | None) -> None:
    file = pq.ParquetFile(stream)
    where = parquet.find(file.schema_arrow)
    if where is None:
        census.left_out["Parquet tables without a column of bytes", ""] += 1
        return
    first = 0
    for group in range(file.num_row_groups):
        census.images += parquet.rows(file, where, group, first, slice_axis)
        first += file.metadata.row_group(group).num_rows
