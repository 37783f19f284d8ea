"""Rows on their way to the driver keep their values and types, whatever batches they come in."""

import numpy as np
import pyarrow as pa

from sdmad.scoring.tables import ScoreColumns, score_rows
from sdmad.scoring.transport import disclosed, enclosed

COLUMNS = ScoreColumns(["one", "two"], num_seeds=3, per_seed=True)


def rows(first: int, count: int) -> pa.Table:
    table = score_rows(None, np.arange(0), count, COLUMNS)
    names = pa.array([f"{k}.png" for k in range(first, first + count)], pa.string())
    return table.append_column(pa.field("member", pa.string(), nullable=False), names)


def test_rows_arrive_in_one_table_as_they_were_sent() -> None:
    sent = [rows(0, 5), rows(5, 1), rows(6, 7)]
    # Ray joins what the batches of a task give, and cuts it where a block is full.
    joined = pa.concat_tables(map(enclosed, sent))
    blocks = [joined.slice(0, 1), joined.slice(1).combine_chunks()]
    found = [disclosed(block) for block in blocks]
    assert [table.num_rows for table in found] == [5, 8]
    assert pa.concat_tables(found).equals(pa.concat_tables(sent), check_metadata=True)
    assert all(column.num_chunks == 1 for table in found for column in table.columns)


def test_a_batch_takes_few_buffers_on_its_way() -> None:
    """Each costs the driver time: with all columns as they are, there are 60 for each batch."""
    table = enclosed(rows(0, 64))
    assert (table.num_rows, table.num_columns) == (1, 2)


def test_a_batch_without_rows_keeps_its_columns() -> None:
    none = rows(0, 3).slice(0, 0)
    assert disclosed(enclosed(none)).equals(none, check_metadata=True)
