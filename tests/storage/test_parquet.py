import pyarrow as pa
import pytest

from sdmad.storage import parquet


def test_a_table_keeps_its_data_and_metadata() -> None:
    table = pa.table({"name": ["a", "b"], "tags": [["x"], []]})
    table = table.replace_schema_metadata({b"sdmad.run": b"7"})
    found = parquet.decode(parquet.encode(table))
    assert found.equals(table)
    assert found.schema.metadata == table.schema.metadata


def test_arrow_holds_no_buffer_after_decoding() -> None:
    content = bytearray(parquet.encode(pa.table({f"c{k}": range(1000) for k in range(50)})))
    for _ in range(20):
        parquet.decode(content)
        content.append(0)  # BufferError while anything still exports the buffer
        content.pop()


def test_bytes_that_are_not_parquet_are_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        parquet.decode(b"no parquet")
