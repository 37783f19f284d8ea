import pyarrow as pa
import pyarrow.parquet as pq
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


def test_floats_have_no_dictionary_and_names_have_one() -> None:
    """At any depth: lists of floats, and structs within lists."""
    evidence = [[{"sign": "streaks", "similarity": 0.5}], []]
    seeds = pa.array([[0.1, 0.2], [0.3, 0.4]], pa.list_(pa.float32(), 2))
    table = pa.table({"name": ["a", "b"], "score": [0.1, 0.2], "signs": evidence, "seeds": seeds})
    content = parquet.encode(table)
    assert parquet.decode(content).equals(table)
    group = pq.read_metadata(pa.BufferReader(content)).row_group(0)
    columns = [group.column(k) for k in range(group.num_columns)]
    found = {c.path_in_schema: "RLE_DICTIONARY" in c.encodings for c in columns}
    assert found == {
        "name": True,
        "score": False,
        "signs.list.element.sign": True,
        "signs.list.element.similarity": False,
        "seeds.list.element": False,
    }
