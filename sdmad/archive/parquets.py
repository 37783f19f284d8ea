"""Parquet shards: a column of encoded images, as Hugging Face datasets write them.

The images are in a column of bytes, or of structs with a field `bytes`. If there are several such
columns, it is the one called `image` (or `content`, `bytes`, ...). Names are in the field `path` of
the struct, or in a column `member`, `path`, `file_name`, .... A row without a name is called
`row=<number>`, counted from 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as types

from sdmad.archive.limits import Entry, describe, is_damage, too_large

IMAGE_COLUMNS = ("image", "content", "bytes", "img", "data", "png", "jpg", "jpeg", "dicom", "dcm")
NAME_COLUMNS = ("member", "path", "file_name", "filename", "key", "__key__", "name", "image_id")
PART_ROWS = 1024
ROWS_AT_ONCE = 16
BUFFER = 1 << 20


@dataclass(frozen=True)
class Columns:
    """The leaf columns of images and names (empty: none), or the `problem` with finding them."""

    image: str
    name: str
    problem: str = ""


def columns(schema: pa.Schema) -> Columns | None:
    """The columns of images and names; None for a table without images."""
    candidates = {}
    for field in schema:
        if types.is_struct(field.type):
            inner = {child.name: child.type for child in field.type}
            if "bytes" in inner and _is_bytes(inner["bytes"]):
                path = f"{field.name}.path" if "path" in inner else ""
                candidates[field.name] = (f"{field.name}.bytes", path)
        elif _is_bytes(field.type):
            candidates[field.name] = (field.name, "")
    if not candidates:
        return None
    known = [name for name in IMAGE_COLUMNS if name in candidates]
    if not known and len(candidates) > 1:
        listed = ", ".join(candidates)
        return Columns("", "", f"several columns of bytes ({listed}), and none is called image")
    image, name = candidates[known[0] if known else next(iter(candidates))]
    named = [n for n in NAME_COLUMNS if n in schema.names and types.is_string(schema.field(n).type)]
    return Columns(image, name or (named[0] if named else ""))


def _is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind)


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
        names = row_names(file, where, group)
        done, reason = 0, "the row group ends early"
        try:
            for value in _values(file, group, where.image):
                yield _entry(names[done], value)
                done += 1
        except (pa.ArrowException, IndexError, OSError) as error:
            if not is_damage(error):
                raise
            reason = f"the row group is damaged: {describe(error)}"
        yield from ((name, None, reason) for name in names[done:])


def _values(file: pq.ParquetFile, group: int, column: str) -> Iterator[pa.Scalar]:
    for batch in file.iter_batches(
        ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
    ):
        values = batch.column(0)
        yield from values.field(0) if types.is_struct(values.type) else values


def _entry(name: str, value: pa.Scalar) -> Entry:
    if not value.is_valid:
        return name, None, "the row has no image"
    buffer = value.as_buffer()
    if reason := too_large(buffer.size):
        return name, None, reason
    return name, buffer.to_pybytes(), ""


def row_names(file: pq.ParquetFile, where: Columns, group: int) -> list[str]:
    """The names of the images of a row group, in order; numbers where names cannot be read."""
    first = sum(file.metadata.row_group(k).num_rows for k in range(group))
    numbers = [f"row={first + k}" for k in range(file.metadata.row_group(group).num_rows)]
    if not where.name:
        return numbers
    try:
        table = file.read_row_group(group, columns=[where.name], use_threads=False)
        column = table.column(0).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        return numbers
    if types.is_struct(column.type):
        column = column.field(0)
    return [name or number for name, number in zip(column.to_pylist(), numbers, strict=True)]


def find(stream: IO[bytes], names: set[str]) -> Iterator[tuple[str, bytes]]:
    """The images called `names`. Images are read only from row groups that contain one."""
    file = pq.ParquetFile(stream)
    where = columns(file.schema_arrow)
    if where is None or where.problem:
        return
    for group in range(file.num_row_groups):
        if names & set(row_names(file, where, group)):
            for name, content, _ in members(stream, (group, group + 1)):
                if name in names and content is not None:
                    yield name, content
