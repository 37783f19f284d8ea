"""Convert whole Parquet files from and to bytes.

Decoding uses only the calling thread: Arrow's own threads may still release Python objects while
the interpreter shuts down, which aborts a job after its work is done (apache/arrow#34314).
"""

import io

import pyarrow as pa
import pyarrow.parquet as pq


def decode(content: bytes | bytearray) -> pa.Table:
    """The table in a Parquet file. Raises Arrow's exceptions for any other content."""
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def encode(table: pa.Table) -> bytes:
    """A Parquet file, compressed with zstd."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
