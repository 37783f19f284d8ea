"""Convert whole Parquet files from and to bytes.

Decoding uses only the calling thread: Arrow's own threads may still release Python objects while
the interpreter shuts down, which aborts a job after its work is done (apache/arrow#34314).
"""

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq


def decode(content: bytes | bytearray, columns: Iterable[str] | None = None) -> pa.Table:
    """The table in a Parquet file, or those of `columns` that it has.

    Raises Arrow's exceptions for any other content.
    """
    file = pq.ParquetFile(pa.BufferReader(content))
    wanted = None if columns is None else [c for c in columns if c in file.schema_arrow.names]
    return file.read(wanted, use_threads=False)


def read_schema(content: bytes) -> pa.Schema:
    """The columns of a Parquet file, with its metadata; raises as `decode` does."""
    return pq.read_schema(pa.BufferReader(content))


def encode(table: pa.Table, rows_together: int | None = None) -> bytes:
    """A Parquet file, compressed with zstd; `rows_together` is the size of its row groups.

    Floats and binary values of fixed size (vectors) have no dictionary: nearly every one is
    different, and it would add a fifth to tables with the scores of each seed.
    """
    sink = io.BytesIO()
    repeated = [path for path, kind in _leaves(table.schema) if not _differ(kind)]
    pq.write_table(
        table, sink, compression="zstd", row_group_size=rows_together, use_dictionary=repeated
    )
    return sink.getvalue()


def _leaves(fields: Iterable[pa.Field], above: str = "") -> Iterator[tuple[str, pa.DataType]]:
    """The columns of Parquet by their paths, such as `signs.list.element.similarity`."""
    for field in fields:
        path, kind = above + field.name, field.type
        while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            path, kind = f"{path}.list.element", kind.value_type
        if pa.types.is_struct(kind):
            yield from _leaves(kind, f"{path}.")
        else:
            yield path, kind


def _differ(kind: pa.DataType) -> bool:
    """Whether nearly all values of a column differ."""
    return pa.types.is_floating(kind) or pa.types.is_fixed_size_binary(kind)
