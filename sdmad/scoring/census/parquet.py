"""Find the images of a Parquet file and their names; for verification.

    where = find(file.schema_arrow)
    for group in range(file.num_row_groups):
        for name, count in rows(file, where, group, open_files=True): ...

It shares no code with `sdmad.archive.parquets`; the rules are those of docs/reliability.md.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as types

from sdmad.archive.naming import escaped
from sdmad.scoring.census import frames
from sdmad.scoring.census.frames import Count

LARGEST = 1 << 30
ROWS_AT_ONCE = 16
# In the order in which they count; upper and lower case are the same.
IMAGES = ("image", "content", "bytes", "img", "data", "png", "jpg", "jpeg", "dicom", "dcm")
NAMES = ("member", "path", "file_name", "filename", "key", "__key__", "name", "image_id")
# A column of one of these names holds images, or is a mistake.
CERTAINLY = ("image", "images", "img", "imgs", "png", "jpg", "jpeg", "dicom", "dcm")
LONGEST_HASH = 64


class UnclearError(ValueError):
    """The table has images, but its schema does not tell where, or they cannot be read."""


@dataclass(frozen=True)
class Place:
    """The columns of images and of names, as (column, field); the field is empty outside structs.

    The first name that is not empty counts.
    """

    images: tuple[str, str]
    names: tuple[tuple[str, str], ...]


def holds_images(schema: pa.Schema) -> bool:
    """Whether a column has bytes and a name that stands for images."""
    return any(field.name.lower() in IMAGES and _bytes_in(field) is not None for field in schema)


def find(schema: pa.Schema) -> Place | None:
    """Where the images and their names are; None for a table without images.

    Raises `UnclearError` for a table that is one failure as a whole.
    """
    chosen = _column(schema)
    if chosen is None:
        return None
    column, field = chosen
    names = []
    if field:
        inside = {child.name.lower(): child for child in _plain(column.type)}
        paths = [inside[name] for name in ("path", *NAMES) if name in inside]
        names += [(column.name, child.name) for child in paths if _is_text(child.type)][:1]
    texts = {f.name.lower(): f for f in schema if f.name != column.name and _is_text(f.type)}
    names += [(texts[name].name, "") for name in NAMES if name in texts][:1]
    return Place((column.name, field), tuple(names))


def _column(schema: pa.Schema) -> tuple[pa.Field, str] | None:
    """The column of images, and the field in it."""
    able = [(column, field) for column in schema if (field := _bytes_in(column)) is not None]
    by_name = {column.name.lower(): (column, field) for column, field in able}
    for name in IMAGES:
        if name in by_name:
            return by_name[name]
    lists = [column for column in schema if _is_list_of_images(column)]
    if any(column.name.lower() in CERTAINLY for column in lists):
        raise UnclearError("several images in a row")
    # Names may be bytes too, and lists of numbers may be anything.
    for doubtful in (lambda c: c.name.lower() in NAMES, lambda c: _is_list(_plain(c.type))):
        able = [pair for pair in able if not doubtful(pair[0])] or able
    if len(able) > 1:
        raise UnclearError("several columns of bytes, none of which has a known name")
    if able:
        return able[0]
    nested = any(c.name.lower() in CERTAINLY and types.is_nested(_plain(c.type)) for c in schema)
    if nested or lists:
        raise UnclearError("images of a type that is not read")
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without dictionary and extension around it."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def _is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_bytes(kind: pa.DataType, named: bool) -> bool:
    kind = _plain(kind)
    if types.is_fixed_size_binary(kind):
        return named or kind.byte_width > LONGEST_HASH
    if _is_list(kind):
        return kind.value_type.bit_width == 8 if types.is_integer(kind.value_type) else False
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return True
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _bytes_in(column: pa.Field) -> str | None:
    """The field of a struct that may hold an image; empty for a plain column, None if none may."""
    kind = _plain(column.type)
    if not types.is_struct(kind):
        return "" if _is_bytes(kind, column.name.lower() in IMAGES) else None
    inside = {child.name.lower(): child for child in kind}
    for name in ("bytes", *IMAGES):
        if name in inside and _is_bytes(inside[name].type, True):
            return str(inside[name].name)
    return None


def _is_list_of_images(column: pa.Field) -> bool:
    kind = _plain(column.type)
    return _is_list(kind) and _bytes_in(pa.field("image", kind.value_type)) is not None


def rows(
    file: pq.ParquetFile, where: Place, group: int, first: int, slice_axis: str | None
) -> Iterator[tuple[str, Count]]:
    """Name and possible numbers of images of each row of a row group, whose first is row `first`.

    Rows without a name, or whose names cannot be read, have their number.
    """
    total = file.metadata.row_group(group).num_rows
    found = [""] * total
    for place in where.names:
        texts = [_text(value) for value in _values(file, group, place)]
        found = [name or text for name, text in zip(found, texts + [""] * total, strict=False)]
    counts: list[Count] = []
    if slice_axis is not None:
        counts = [_count(value, slice_axis) for value in _values(file, group, where.images)]
    counts += [None] * (total - len(counts))
    for number, (name, count) in enumerate(zip(found, counts, strict=False), first):
        yield name or f"row={number}", count


def _values(file: pq.ParquetFile, group: int, place: tuple[str, str]) -> Iterator[pa.Scalar]:
    """The values of a column, or of a field in it, until one cannot be read."""
    column, field = place
    path = f"{column}.{field}" if field else column
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, [group], [path], use_threads=False):
            for value in batch.column(0):
                value = _unwrapped(value)
                if field and value.is_valid:
                    value = _unwrapped(value[field])
                yield value
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise


def _unwrapped(value: pa.Scalar) -> pa.Scalar:
    while isinstance(value, (pa.DictionaryScalar, pa.ExtensionScalar)) and value.is_valid:
        value = value.value
    return value


def _text(value: pa.Scalar) -> str:
    if not value.is_valid:
        return ""
    return escaped(value.as_buffer().to_pybytes().decode("utf-8", "surrogateescape"))


def _count(value: pa.Scalar, slice_axis: str) -> Count:
    if not value.is_valid:
        return None
    if not isinstance(value, pa.ListScalar):
        content = value.as_buffer()
        return frames.count(io.BytesIO(content), slice_axis) if content.size <= LARGEST else None
    numbers = value.values
    if numbers.null_count or len(numbers) > LARGEST:
        return None
    return frames.count(io.BytesIO(numbers.to_numpy(zero_copy_only=False).tobytes()), slice_axis)
