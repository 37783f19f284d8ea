"""Units come out once and complete, with the rows of one attempt, whatever arrives and when."""

import itertools

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sdmad.scoring.ledger import END_OF_UNIT, START, Ledger, extend

Row = tuple[str, int, int, int, str]


def attempt(unit: str, names: list[str]) -> list[Row]:
    """The rows of one reading of a unit, with its end."""
    found, digest = [], START
    for index, name in enumerate(names):
        before, digest = digest, extend(digest, name)
        found.append((unit, index, digest, before, name))
    return [*found, (unit, END_OF_UNIT, digest, digest, "")]


def table(rows: list[Row]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(dict(zip(("unit", "index", "digest", "before", "name"), columns, strict=True)))


def collect(batches: list[list[Row]]) -> tuple[dict[str, list[str]], Ledger]:
    ledger, out = Ledger(), {}
    for batch in batches:
        for unit, rows in ledger.add(table(batch)):
            assert unit not in out, "a unit comes out once"
            out[unit] = rows["name"].to_pylist()
    return out, ledger


NAMES = st.lists(st.sampled_from("abc"), max_size=5)


@st.composite
def streams(draw):
    """Several attempts at each unit, which differ: all rows of some, a part of the others, some
    rows twice, all of them interleaved in any order and cut into batches."""
    attempts: dict[str, list[list[str]]] = {}
    whole: dict[str, list[list[str]]] = {}
    stream: list[Row] = []
    for number in range(draw(st.integers(1, 3))):
        unit = f"unit{number}"
        shared = draw(NAMES)
        attempts[unit] = [shared[: draw(st.integers(0, 5))] + draw(NAMES) for _ in range(3)]
        whole[unit] = []
        for names in attempts[unit]:
            rows = attempt(unit, names)
            if draw(st.booleans()):
                whole[unit].append(names)
                stream += rows
            else:
                stream += draw(st.lists(st.sampled_from(rows), max_size=len(rows)))
    stream += draw(st.lists(st.sampled_from(stream), max_size=5)) if stream else []
    stream = draw(st.permutations(stream))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    return attempts, whole, [stream[a:b] for a, b in itertools.pairwise(edges) if b > a]


@given(streams())
def test_rows_of_attempts_that_differ_never_mix(case) -> None:
    attempts, whole, batches = case
    out, ledger = collect(batches)
    for unit, names in out.items():
        assert names in attempts[unit], "the rows of one attempt, all of them, in order"
    for unit, complete in whole.items():
        assert not complete or unit in out, "an attempt that arrived whole is enough"
    assert ledger.incomplete(attempts) == attempts.keys() - out.keys()


def test_blocks_of_a_repeated_task_that_ray_drops_leave_the_unit_incomplete() -> None:
    """Ray keeps the blocks of the first attempt and takes from the second what lies behind them."""
    first = attempt("u", ["x#1", "x#2", "x#3", "a", "b"])
    second = attempt("u", ["x", "a", "b"])
    out, ledger = collect([first[:2], second[2:]])
    assert out == {}
    assert ledger.incomplete(["u", "v"]) == {"u", "v"}, "v never sent a row"
    # Run again, it is whole; rows of before do not count.
    assert [unit for unit, _ in ledger.add(table(second))] == ["u"]
    assert ledger.incomplete(["u"]) == set()


def test_attempts_that_agree_complete_each_other() -> None:
    rows = attempt("u", ["a", "a", "b", "c"])
    out, _ = collect([rows[:2], rows[2:]])
    assert out == {"u": ["a", "a", "b", "c"]}


def test_attempts_that_are_cut_in_other_places_complete_each_other() -> None:
    rows = attempt("u", list("abcdef"))
    for batches in ([rows[:4], rows[2:]], [rows[2:], rows[:4]], [rows[:3] + rows[1:5], rows[4:]]):
        out, _ = collect(batches)
        assert out == {"u": list("abcdef")}


def test_rows_that_come_after_the_end_or_twice_are_ignored() -> None:
    rows = attempt("u", ["a", "b"])
    out, _ = collect([rows[2:], rows[1:2], rows[:1], rows, rows[:1]])
    assert out == {"u": ["a", "b"]}


def test_a_unit_without_images_is_complete_at_its_end() -> None:
    assert collect([attempt("u", [])])[0] == {"u": []}
