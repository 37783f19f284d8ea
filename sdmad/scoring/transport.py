"""Rows on their way from a model's actor to the driver: each batch is one value of bytes.

Ray takes a table apart into the buffers of each column and each batch, and the driver would put a
thousand of them together again for each unit. A value of bytes costs it a hundredth of that.
"""

from functools import lru_cache

import pyarrow as pa

ROWS, SCHEMA = "rows", "schema"


def enclosed(rows: pa.Table) -> pa.Table:
    """A table of one row, which holds `rows` and their schema as messages of Arrow's IPC format."""
    batches = rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], rows.schema)]
    messages = {ROWS: batches[0].serialize(), SCHEMA: rows.schema.serialize()}
    return pa.table(
        {name: pa.array([m.to_pybytes()], pa.large_binary()) for name, m in messages.items()}
    )


def disclosed(table: pa.Table) -> pa.Table:
    """All rows that `enclosed` tables of one schema hold, in one chunk."""
    schema = _schema(table[SCHEMA][0].as_py())
    parts = [
        pa.ipc.read_record_batch(value.as_buffer(), schema)
        for chunk in table[ROWS].chunks
        for value in chunk
    ]
    return pa.Table.from_batches(parts, schema).combine_chunks()


@lru_cache(maxsize=8)
def _schema(message: bytes) -> pa.Schema:
    """Parsing takes as long as all else, and all batches of a run have the same schema."""
    return pa.ipc.read_schema(pa.py_buffer(message))
