"""Count what could be an image in one object of an archive; for verification."""

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from lzma import LZMAError
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.archive.naming import clean, escaped
from sdmad.errors import UserError
from sdmad.scoring.census import frames, rules, tar
from sdmad.scoring.census.frames import Count
from sdmad.scoring.census.listing import UNKNOWN
from sdmad.storage import ObjectError, StoredObject, storage_error

HEAD = 64 << 10
LARGEST = 1 << 30
ROWS_AT_ONCE = 64
# The columns of images and of names in docs/reliability.md, in the order in which they count.
IMAGES = ("image", "content", "bytes", "img", "data", "png", "jpg", "jpeg", "dicom", "dcm")
NAMES = ("member", "path", "file_name", "filename", "key", "__key__", "name", "image_id")
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


def count_shard(entry: StoredObject, kind: str, open_files: bool) -> Census:
    """Everything in a shard. `open_files` also counts the images in each file."""
    census = Census()
    count = {"tar": _count_tar, "zip": _count_zip, "parquet": _count_parquet}[kind]
    try:
        with _opened(entry) as stream:
            count(stream, census, open_files)
    except ObjectError:
        census.broken = True
    except UserError:
        raise
    except OSError as error:
        # Decompressors and Arrow raise it for damage, without a number of the system.
        if error.errno not in (None, 22) and not isinstance(error, FileNotFoundError):
            raise storage_error(entry.uri, error) from error
        census.broken = True
    except DAMAGE:
        census.broken = True
    return census


def count_loose(entry: StoredObject, name: str, why: str, open_files: bool) -> Census:
    """A loose object; `why` is the kind of one that cannot be an image."""
    census = Census()
    kind, detail = (why, "") if why else rules.why_no_image(name)
    if not kind and not open_files:
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
                else:
                    found = frames.count(stream)
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


def _count_tar(stream: IO[bytes], census: Census, open_files: bool) -> None:
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
        opened = open_files and member.kind == "file" and 0 < member.size <= LARGEST
        # Listed before it is opened: the tar may break off inside of it.
        census.images.append((name, None))
        if opened:
            census.images[-1] = (name, frames.count(member.content()))


def _count_zip(stream: IO[bytes], census: Census, open_files: bool) -> None:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            name = _zip_name(info)
            if info.filename.endswith("/"):
                continue
            kind, detail = rules.why_no_image(name)
            found, start = None, b""
            if kind or (open_files and 0 < info.file_size <= LARGEST):
                try:
                    with archive.open(info) as content:
                        if kind:
                            start = content.read(132)
                        else:
                            found = frames.count(content)
                except (*DAMAGE, zipfile.LargeZipFile):
                    found = None
                except OSError as error:
                    if error.errno is not None:
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
            if kind == 0x7075 and value[1:5] == zlib.crc32(stored).to_bytes(4, "little"):
                stored = value[5:]
        return escaped(stored.decode().split("\0", 1)[0])
    except UnicodeError:
        return escaped(info.filename)


def _count_parquet(stream: IO[bytes], census: Census, open_files: bool) -> None:
    file = pq.ParquetFile(stream)
    schema = file.schema_arrow
    columns = [column for column in schema if _holds_bytes(column.type)]
    if not columns:
        census.left_out["Parquet tables without a column of bytes", ""] += 1
        return
    named = {column.name: column for column in columns}
    known = [named[name] for name in IMAGES if name in named]
    if not known and len(columns) > 1:
        raise ValueError("none of several columns of bytes has a known name")
    column = known[0] if known else columns[0]
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        names = _parquet_names(file, group, column, first, rows)
        counts: list[Count] = []
        if open_files:
            counts = list(_parquet_counts(file, group, column))[:rows]
        counts += [None] * (rows - len(counts))
        census.images += zip(names, counts, strict=True)
        first += rows


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.types.is_uint8(kind.value_type)
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(child.name == "bytes" and _is_bytes(child.type) for child in kind)
    return _is_bytes(kind)


def _parquet_names(
    file: pq.ParquetFile, group: int, column: pa.Field, first: int, rows: int
) -> list[str]:
    """Names of the rows of a row group; numbers where there are none or they cannot be read."""
    numbers = [f"row={first + k}" for k in range(rows)]
    inside = pa.types.is_struct(column.type) and "path" in [child.name for child in column.type]
    texts = {f.name for f in file.schema_arrow if _is_text(f.type)}
    beside = next((name for name in NAMES if name in texts), "")
    if not inside and not beside:
        return numbers
    try:
        path = f"{column.name}.path" if inside else beside
        found = file.read_row_group(group, [path], use_threads=False).column(0).combine_chunks()
        if inside:
            found = found.field(0)
        values = found.cast(pa.string()).to_pylist()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return numbers
    return [
        clean(value) if value else number for value, number in zip(values, numbers, strict=True)
    ]


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _parquet_counts(file: pq.ParquetFile, group: int, column: pa.Field) -> Iterator[Count]:
    """The number of images in each row of a row group, until one cannot be read."""
    path = f"{column.name}.bytes" if pa.types.is_struct(column.type) else column.name
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, [group], [path], use_threads=False):
            values = batch.column(0)
            if pa.types.is_struct(values.type):
                values = values.field(0)
            for value in values:
                yield _count_value(value)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise


def _count_value(value: pa.Scalar) -> Count:
    if not value.is_valid:
        return None
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    content = value.values if isinstance(value, pa.ListScalar) else None
    if content is not None:
        return frames.count(io.BytesIO(content.to_numpy(zero_copy_only=False).tobytes()))
    return frames.count(pa.BufferReader(value.as_buffer()))
