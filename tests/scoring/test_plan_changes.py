"""Objects that left an archive or changed: what a plan refuses, accepts, records and removes."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdmad.errors import UserError
from sdmad.scoring.plan import Plan, make_plan, open_plan, plan_uri
from sdmad.scoring.run import _changes
from sdmad.scoring.tables import commit_unit, empty_failures
from tests.helpers import encoded, write_tar
from tests.scoring.helpers import tables


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "archive"
    for k in range(3):
        write_tar(folder / f"s{k}.tar", {"1.png": encoded(k)})
    return folder


def plan(archive: Path, **options: bool) -> Plan:
    metadata = {"archive": str(archive), "detector": "d1", "per_seed": "false"}
    return make_plan(str(archive), output(archive), metadata, **options)


def output(archive: Path) -> str:
    return str(archive.parent / "out")


def commit(archive: Path, unit: str, *names: tuple[str, str]) -> None:
    shards, members = zip(*names, strict=True)
    rows = pa.table({"archive": pa.array(shards), "member": pa.array(members)})
    commit_unit(output(archive), unit, rows, empty_failures(), {})


def rows(archive: Path) -> list[tuple[str, str]]:
    table = tables(output(archive), "scores")
    return sorted(zip(table["archive"].to_pylist(), table["member"].to_pylist(), strict=True))


def test_accepted_changes_are_planned_again_recorded_and_told(archive, capsys) -> None:
    """s0 was scored and has changed, s1 has changed, s2 has left before it was scored."""
    first = plan(archive)
    commit(archive, first.units[0].id, ("s0.tar", "1.png"))
    for k in (0, 1):
        write_tar(archive / f"s{k}.tar", {"1.png": encoded(9), "2.png": encoded(9)})
    (archive / "s2.tar").unlink()
    with pytest.raises(UserError, match=r"s2\.tar .*disappeared before it was scored"):
        plan(archive)
    assert rows(archive) == [("s0.tar", "1.png")], "a refusal removes nothing"
    second = plan(archive, accept_changes=True)
    assert [unit.archive for unit in second.todo] == ["s0.tar", "s1.tar"]
    assert not {unit.id for unit in second.units} & {unit.id for unit in first.units}
    assert not list(Path(output(archive), "scores").iterdir())
    [entry] = _changes(str(archive), "r1", second, accepted=True)
    assert (entry["left"], entry["changed"]) == (["s2.tar"], ["s0.tar", "s1.tar"])
    told = capsys.readouterr().err
    assert "never scored: s2.tar" in told
    assert "scored again: s0.tar, s1.tar" in told
    assert plan(archive).units == second.units, "the next run needs no option"


def test_rows_of_objects_that_are_gone_stay_until_they_are_pruned(archive, capsys) -> None:
    first = plan(archive)
    for unit in first.units:
        commit(archive, unit.id, (unit.archive, "1.png"))
    (archive / "s1.tar").unlink()
    kept = plan(archive)
    assert len(rows(archive)) == 3
    assert "s1.tar; --prune removes these rows" in capsys.readouterr().err
    assert _changes(str(archive), "r1", kept, accepted=False) == []
    pruned = plan(archive, prune=True)
    assert rows(archive) == [("s0.tar", "1.png"), ("s2.tar", "1.png")]
    [entry] = _changes(str(archive), "r2", pruned, accepted=False)
    assert entry["pruned"] == ["s1.tar"]
    assert not pruned.todo
    assert not plan(archive).changes.gone


def test_pruning_a_loose_image_keeps_the_rows_of_those_beside_it(tmp_path) -> None:
    archive = tmp_path / "loose"
    archive.mkdir()
    for k in range(3):
        (archive / f"{k}.png").write_bytes(encoded(k))
    [unit] = plan(archive).units
    commit(archive, unit.id, *(("", f"{k}.png") for k in range(3)))
    (archive / "1.png").unlink()
    pruned = plan(archive, prune=True)
    assert rows(archive) == [("", "0.png"), ("", "2.png")]
    assert not pruned.todo


def test_a_renamed_shard_is_named_and_pruning_leaves_each_image_once(archive, capsys) -> None:
    first = plan(archive)
    for unit in first.units:
        commit(archive, unit.id, (unit.archive, "1.png"))
    (archive / "s1.tar").rename(archive / "t.tar")
    assert [unit.archive for unit in plan(archive).todo] == ["t.tar"]
    assert "s1.tar seems to be called t.tar now" in capsys.readouterr().err
    pruned = plan(archive, prune=True)
    commit(archive, pruned.todo[0].id, ("t.tar", "1.png"))
    assert rows(archive) == [(name, "1.png") for name in ("s0.tar", "s2.tar", "t.tar")]


def test_pruning_removes_tables_of_units_that_are_in_no_plan(archive) -> None:
    plan(archive)
    commit(archive, "0" * 16, ("old.tar", "1.png"))
    plan(archive)
    assert rows(archive) == [("old.tar", "1.png")]
    plan(archive, prune=True)
    assert not list(Path(output(archive), "scores").iterdir())
    assert not list(Path(output(archive), "failures").iterdir())


@pytest.mark.parametrize("content", [b"", b"notes", "other", "half"])
def test_a_foreign_file_in_the_place_of_the_plan_is_refused(archive, content) -> None:
    if isinstance(content, str):
        sink = io.BytesIO()
        pq.write_table(pa.table({"unit": ["1"]}), sink)
        content = sink.getvalue() if content == "other" else sink.getvalue()[:-9]
    Path(output(archive)).mkdir()
    Path(plan_uri(output(archive))).write_bytes(content)
    for use in (plan, lambda archive: open_plan(output(archive))):
        with pytest.raises(UserError, match="is not the plan of a scoring run"):
            use(archive)
    assert Path(plan_uri(output(archive))).read_bytes() == content
