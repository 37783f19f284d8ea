"""Convert whole Parquet files from and to bytes.

Decoding uses only the calling thread: Arrow's own threads may still release Python objects while
the interpreter shuts down, which aborts a job after its work is done (apache/arrow#34314).
"""

import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq


def decode(content: bytes | bytearray, columns: Iterable[str] | None = None) -> pa.Table:
    """The table in a Parquet file, or those of `columns` that it has.

    Raises Arrow's exceptions for any other content.
    """
    file = pq.ParquetFile(pa.BufferReader(content))
    wanted = None if columns is None else [c for c in columns if c in file.schema_arrow.names]
    return file.read(wanted, use_threads=False)


def encode(table: pa.Table, rows_together: int | None = None) -> bytes:
    """A Parquet file, compressed with zstd; `rows_together` is the size of its row groups.

    Binary values of fixed size are vectors, of which no two are equal: they get no dictionary.
    """
    sink = io.BytesIO()
    repeated: list[str] = [
        field.name for field in table.schema if not pa.types.is_fixed_size_binary(field.type)
    ]
    dictionary = True if len(repeated) == table.num_columns else repeated
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=rows_together,
        use_dictionary=dictionary,
    )
    return sink.getvalue()
