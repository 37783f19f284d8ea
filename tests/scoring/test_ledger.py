"""The ledger returns each unit once and complete, whatever the order and number of its rows."""

import itertools

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sdmad.scoring.ledger import Ledger


def rows(entries: list[tuple[str, int, int]]) -> pa.Table:
    unit, index, total = zip(*entries, strict=True)
    return pa.table(
        {
            "unit": pa.array(unit, pa.string()),
            "index": pa.array(index, pa.int64()),
            "total": pa.array(total, pa.int64()),
        }
    )


@st.composite
def streams(draw):
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    entries = []
    for number, size in enumerate(sizes):
        unit = f"unit{number}"
        entries += [(unit, k, -1) for k in range(size)] + [(unit, -1, size)]
    repeated = draw(st.lists(st.sampled_from(entries), max_size=10))
    stream = draw(st.permutations(entries + repeated))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    batches = [stream[a:b] for a, b in itertools.pairwise(edges) if b > a]
    return sizes, batches


@given(streams())
def test_each_unit_is_returned_once_with_each_row_once_in_order(case) -> None:
    sizes, batches = case
    ledger, out = Ledger(), {}
    for batch in batches:
        for unit, table in ledger.add(rows(batch)):
            assert unit not in out
            out[unit] = table["index"].to_pylist()
    assert out == {f"unit{k}": list(range(size)) for k, size in enumerate(sizes)}
    assert ledger.open_units == 0


def test_a_unit_without_its_last_row_stays_open() -> None:
    ledger = Ledger()
    assert ledger.add(rows([("a", 0, -1), ("a", 1, -1)])) == []
    assert ledger.open_units == 1
    assert ledger.add(rows([("a", -1, 3)])) == []
    ((unit, table),) = ledger.add(rows([("a", 2, -1)]))
    assert unit == "a"
    assert table["index"].to_pylist() == [0, 1, 2]
