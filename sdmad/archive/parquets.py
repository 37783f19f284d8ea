"""Parquet shards: a column of encoded images, as Hugging Face datasets write them.

The images are in a column of bytes, of lists of 8-bit integers, or of structs with such a field,
usually called `bytes`. If there are several such columns, it is the one called `image` (or
`content`, `bytes`, ...). Names are in the field `path` of the struct, or in a column `member`,
`path`, `file_name`, .... A row without a name is called `row=<number>`, counted from 0. Upper and
lower case in names of columns and fields are the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as types

from sdmad.archive import naming
from sdmad.archive.limits import Entry, describe, is_damage, too_large

IMAGE_COLUMNS = ("image", "content", "bytes", "img", "data", "png", "jpg", "jpeg", "dicom", "dcm")
NAME_COLUMNS = ("member", "path", "file_name", "filename", "key", "__key__", "name", "image_id")
# Columns of these names with lists or structs that are not read are a mistake, not a table.
ALWAYS_IMAGES = ("image", "images", "img", "imgs", "png", "jpg", "jpeg", "dicom", "dcm")
# Fixed-size bytes of at most this width are hashes and identifiers.
WIDEST_HASH = 64
PART_ROWS = 1024
ROWS_AT_ONCE = 16
BUFFER = 1 << 20


@dataclass(frozen=True)
class Columns:
    """The leaf column of images and those of names, or the `problem` with finding them."""

    image: str
    names: tuple[str, ...]
    problem: str = ""


def columns(schema: pa.Schema) -> Columns | None:
    """The columns of images and names; None for a table without images."""
    found = {field.name: leaf for field in schema if (leaf := _leaf(field))}
    chosen = _choice(schema, found)
    if isinstance(chosen, Columns) or chosen is None:
        return chosen
    image, path = found[chosen]
    texts = [field.name for field in schema if field.name != chosen and _is_text(field.type)]
    lower = {name.lower(): name for name in texts}
    named = [lower[name] for name in NAME_COLUMNS if name in lower]
    return Columns(image, (*filter(None, [path]), *named[:1]))


def is_shard(schema: pa.Schema) -> bool:
    """Whether a table holds images for certain: in a column with one of the usual names."""
    found = {field.name.lower() for field in schema if _leaf(field)}
    return not found.isdisjoint(IMAGE_COLUMNS)


def _choice(schema: pa.Schema, found: dict[str, tuple[str, str]]) -> str | Columns | None:
    """The name of the column of images among those `found`, or the problem; None: no images."""
    lower = {name.lower(): name for name in found}
    known = [lower[name] for name in IMAGE_COLUMNS if name in lower]
    if known:
        return known[0]
    several = [field for field in schema if _holds_several(field.type)]
    for field in several:
        if field.name.lower() in ALWAYS_IMAGES:
            return _unread(field)
    nested = [field for field in schema if types.is_nested(_plain(field.type))]
    unread = [field for field in nested if field.name.lower() in ALWAYS_IMAGES] + several
    others = [name for name in found if name.lower() not in NAME_COLUMNS] or list(found)
    compact = [n for n in others if not _is_list(_plain(schema.field(n).type))] or others
    if len(compact) == 1:
        return compact[0]
    if compact:
        listed = ", ".join(compact)
        return Columns("", (), f"several columns of bytes ({listed}), and none is called image")
    return _unread(unread[0]) if unread else None


def _unread(field: pa.Field) -> Columns:
    kind = f"the column {field.name} is of type {field.type}"
    return Columns("", (), f"{kind}, which is not read; write one image a row, as bytes")


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without dictionary and extension around it."""
    while types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    return kind


def _leaf(field: pa.Field) -> tuple[str, str] | None:
    """The columns of bytes and of paths (empty: none) in a field that may hold images."""
    kind = _plain(field.type)
    if not types.is_struct(kind):
        known = field.name.lower() in IMAGE_COLUMNS
        return (field.name, "") if _is_bytes(kind, known) else None
    inner = {child.name.lower(): child for child in kind}
    held = [inner[name] for name in ("bytes", *IMAGE_COLUMNS) if name in inner]
    images = [f"{field.name}.{child.name}" for child in held if _is_bytes(child.type, True)]
    told = [inner[name] for name in ("path", *NAME_COLUMNS) if name in inner]
    paths = [f"{field.name}.{child.name}" for child in told if _is_text(child.type)]
    return (images[0], paths[0] if paths else "") if images else None


def _is_bytes(kind: pa.DataType, known: bool) -> bool:
    """Whether a type can hold an encoded image; `known` if the name of its column says so."""
    kind = _plain(kind)
    if types.is_fixed_size_binary(kind):
        return known or kind.byte_width > WIDEST_HASH
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return binary or (_is_list(kind) and kind.value_type in (pa.uint8(), pa.int8()))


def _is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _holds_several(kind: pa.DataType) -> bool:
    """Whether a type is a list of encoded images."""
    kind = _plain(kind)
    return _is_list(kind) and _leaf(pa.field("image", kind.value_type)) is not None


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return text or binary


def parts(stream: IO[bytes]) -> list[tuple[int, int]] | None:
    """Ranges of row groups with about `PART_ROWS` rows each; None for a table without images."""
    file = pq.ParquetFile(stream)
    if columns(file.schema_arrow) is None:
        return None
    cuts, rows = [0], 0
    for group in range(file.num_row_groups):
        rows += file.metadata.row_group(group).num_rows
        if rows >= PART_ROWS:
            cuts.append(group + 1)
            rows = 0
    if cuts[-1] < file.num_row_groups or len(cuts) == 1:
        cuts.append(file.num_row_groups)
    return list(pairwise(cuts))


def members(stream: IO[bytes], part: tuple[int, int] | None) -> Iterator[Entry]:
    """Every image of a shard, or of a range of its row groups.

    If a row group is damaged, the rest of its images have a name and a reason.
    """
    file = pq.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
    where = columns(file.schema_arrow)
    if where is None or where.problem:
        raise pa.ArrowInvalid(where.problem if where else "no column of images")
    for group in range(*(part or (0, file.num_row_groups))):
        found = row_names(file, where, group)
        done, reason = 0, "the row group ends early"
        try:
            for value in _values(file, group, where.image):
                yield _entry(found[done], value)
                done += 1
        except (pa.ArrowException, IndexError, OSError) as error:
            if not is_damage(error):
                raise
            reason = f"the row group is damaged: {describe(error)}"
        yield from ((name, None, reason) for name in found[done:])


def _values(file: pq.ParquetFile, group: int, column: str) -> Iterator[pa.Scalar]:
    for batch in file.iter_batches(
        ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
    ):
        yield from _inner(batch.column(0))


def _inner(values: pa.Array) -> pa.Array:
    """The values themselves, or those of the only field of structs."""
    values = _stored(values)
    return _stored(values.flatten()[0]) if types.is_struct(values.type) else values


def _stored(values: pa.Array) -> pa.Array:
    return values.storage if isinstance(values, pa.ExtensionArray) else values


def _entry(name: str, value: pa.Scalar) -> Entry:
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if not value.is_valid:
        return name, None, "the row has no image"
    if _is_list(value.type):
        numbers = value.values
        if reason := too_large(len(numbers)):
            return name, None, reason
        if numbers.null_count:
            return name, None, "the list of bytes has empty entries"
        return name, numbers.to_numpy().tobytes(), ""
    buffer = value.as_buffer()
    if reason := too_large(buffer.size):
        return name, None, reason
    return name, buffer.to_pybytes(), ""


def row_names(file: pq.ParquetFile, where: Columns, group: int) -> list[str]:
    """The names of the images of a row group, in order; numbers where names cannot be read."""
    first = sum(file.metadata.row_group(k).num_rows for k in range(group))
    found: list[str] = [""] * file.metadata.row_group(group).num_rows
    for column in where.names:
        try:
            table = file.read_row_group(group, columns=[column], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            continue
        texts = _texts(table.column(0).combine_chunks())
        found = [name or text for name, text in zip(found, texts, strict=True)]
    return [name or f"row={first + k}" for k, name in enumerate(found)]


def _texts(values: pa.Array) -> Iterable[str]:
    values = _inner(values)
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    raw = values.cast(pa.large_binary()).to_pylist()
    return (naming.escaped((text or b"").decode("utf-8", "surrogateescape")) for text in raw)


def names(stream: IO[bytes]) -> Iterator[str]:
    """The names of all images of a shard, in stored order."""
    file = pq.ParquetFile(stream)
    where = columns(file.schema_arrow)
    if where is not None and not where.problem:
        for group in range(file.num_row_groups):
            yield from row_names(file, where, group)


def find(stream: IO[bytes], wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The images called `wanted`. Images are read only from row groups that contain one."""
    file = pq.ParquetFile(stream)
    where = columns(file.schema_arrow)
    if where is None or where.problem:
        return
    for group in range(file.num_row_groups):
        if wanted & set(row_names(file, where, group)):
            for name, content, _ in members(stream, (group, group + 1)):
                if name in wanted and content is not None:
                    yield name, content
