"""An archive that changes between runs: what both commands say, and what the tables then hold.

The runs read the archive in this process, without Ray and without a detector.
"""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from sdmad.archive import parquets
from sdmad.commands.verify import verify
from sdmad.scoring.plan import read_plan
from sdmad.scoring.tables import all_units, done_units
from tests.helpers import encoded, run_command, write_tar
from tests.scoring import helpers
from tests.scoring.helpers import ScoredFolder, record, tables

REMOVE = "  the score job removes these rows with --prune"


SHARDS = ["s0.tar/0.png", "s0.tar/0x.png", "s1.tar/1.png", "s1.tar/1x.png"]
LOOSE = ["a.png", "b.png", "c.png"]


def test_a_renamed_shard(scored) -> None:
    (scored.archive / "s0.tar").rename(scored.archive / "t0.tar")
    gone = "  no longer in the archive, but in the tables: s0.tar (2 rows)"
    assert scored.verify() == (1, ["  not scored yet: t0.tar (2 images)", gone, REMOVE])
    ended = scored.score()
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[:2] == [
        "notice: no longer in the archive, but with rows in the tables: s0.tar; "
        "--prune removes these rows",
        "notice: s0.tar seems to be called t0.tar now",
    ]
    renamed = ["t0.tar/0.png", "t0.tar/0x.png"]
    assert scored.rows() == sorted(LOOSE + SHARDS + renamed)
    twice = "  renamed, so that its images are in the tables twice: s0.tar is called t0.tar now"
    assert scored.verify() == (1, [gone, twice, REMOVE])
    assert (record(scored.output)["objects_gone"], scored.changes()) == (1, [])
    ended = scored.score("--prune")
    assert ended.stderr.splitlines()[:2] == [
        "notice: no longer in the archive; removing the rows of: s0.tar",
        "notice: s0.tar seems to be called t0.tar now",
    ]
    assert scored.rows() == sorted(LOOSE + SHARDS[2:] + renamed)
    assert scored.verify() == (0, [])
    assert record(scored.output)["objects_gone"] == 0
    assert scored.changes() == [{"pruned": ["s0.tar"]}]


def test_objects_that_vanished_after_they_were_scored(scored, monkeypatch) -> None:
    (scored.archive / "s1.tar").unlink()
    (scored.archive / "b.png").unlink()
    gone = [f"  no longer in the archive, but in the tables: {n}" for n in ("b.png (1 row)",)]
    gone += ["  no longer in the archive, but in the tables: s1.tar (2 rows)", REMOVE]
    assert scored.verify() == (0, gone)
    assert "with rows in the tables: b.png, s1.tar; --prune" in scored.score().stderr
    assert scored.rows() == sorted(LOOSE + SHARDS)
    assert (scored.verify(), scored.changes()) == ((0, gone), [])

    def read_again(*_: object) -> None:
        raise AssertionError("finished units are not read again")

    monkeypatch.setattr(helpers, "commit", read_again)
    ended = scored.score("--prune")
    assert ended.stderr.splitlines()[0] == (
        "notice: no longer in the archive; removing the rows of: b.png, s1.tar"
    )
    assert scored.rows() == sorted(["a.png", "c.png", *SHARDS[:2]])
    assert all_units(str(scored.output)) == {unit.id for unit in read_plan(str(scored.output))[0]}
    assert scored.verify() == (0, [])
    assert scored.changes() == [{"pruned": ["b.png", "s1.tar"]}]
    assert scored.score("--prune").returncode == 0
    assert scored.changes() == [{"pruned": ["b.png", "s1.tar"]}], "nothing more to record"


def unscored(scored: ScoredFolder) -> None:
    """Make all units ones that are planned and not scored."""
    for part in scored.output.glob("*/part-*.parquet"):
        part.unlink()


def test_objects_that_vanished_before_they_were_scored(scored) -> None:
    unscored(scored)
    (scored.archive / "s0.tar").unlink()
    (scored.archive / "b.png").unlink()
    assert scored.verify()[0] == 1
    ended = scored.score()
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: {scored.archive}/b.png was planned and has disappeared before it was scored (1 "
        "other object too); put it back, go on without it or with its new content with "
        "--accept-changes, or score to another output\n"
    )
    assert scored.score("--prune").returncode == 2, "nothing of them was scored"
    assert not done_units(str(scored.output))
    ended = scored.score("--accept-changes")
    assert ended.stderr.splitlines()[0] == (
        "notice: no longer in the archive, and never scored: b.png, s0.tar"
    )
    assert scored.rows() == sorted(["a.png", "c.png", *SHARDS[2:]])
    assert scored.verify() == (0, [])
    assert scored.changes() == [{"left": ["b.png", "s0.tar"]}]


def test_changed_objects(scored) -> None:
    write_tar(scored.archive / "s1.tar", {"1.png": encoded(9), "new.png": encoded()})
    (scored.archive / "c.png").write_bytes(b"no image any more")
    changed = [f"  changed since it was planned: {name}" for name in ("c.png", "s1.tar")]
    again = "  the score job scores these again with --accept-changes"
    assert scored.verify() == (1, [*changed, again])
    assert scored.verify("--names-only") == (1, [*changed, again])
    for options in ((), ("--prune",)):
        ended = scored.score(*options)
        assert ended.returncode == 2
        assert f"error: {scored.archive}/c.png has changed since it was planned" in ended.stderr
    assert scored.rows() == sorted(LOOSE + SHARDS)
    ended = scored.score("--accept-changes")
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[0] == "notice: changed, and scored again: c.png, s1.tar"
    assert scored.rows() == sorted(LOOSE + SHARDS[:2] + ["s1.tar/1.png", "s1.tar/new.png"])
    failed = tables(str(scored.output), "failures")["member"].to_pylist()
    assert sorted(failed) == ["0x.png", "c.png"]
    assert scored.verify() == (0, [])
    assert scored.changes() == [{"changed": ["c.png", "s1.tar"]}]


def test_changed_objects_of_a_manifest(scored, tmp_path) -> None:
    manifest = scored.archive / "list.csv"
    manifest.write_text("uri\ns0.tar\na.png\nb.png\n")
    listed = ScoredFolder(manifest, tmp_path / "other")
    assert listed.score().returncode == 0
    assert listed.verify() == (0, [])
    write_tar(scored.archive / "s0.tar", {"0.png": encoded(9)})
    (scored.archive / "b.png").write_bytes(encoded(4, (9, 9)))
    assert listed.verify() == (
        1,
        [
            "  changed since it was planned: b.png",
            "  changed since it was planned: s0.tar",
            "  the score job scores these again with --accept-changes",
        ],
    )
    assert listed.score("--accept-changes").returncode == 0
    assert listed.verify() == (0, [])
    assert listed.rows() == ["a.png", "b.png", "s0.tar/0.png"]


def test_both_options_together_and_one_run_after_another(scored) -> None:
    (scored.archive / "s0.tar").unlink()
    (scored.archive / "c.png").write_bytes(encoded(3, (9, 9)))
    (scored.archive / "a.png").rename(scored.archive / "d.png")
    assert scored.score("--prune").returncode == 2
    assert scored.score("--accept-changes", "--prune").returncode == 0
    assert scored.rows() == sorted(["b.png", "c.png", "d.png", *SHARDS[2:]])
    assert scored.verify() == (0, [])
    (scored.archive / "b.png").unlink()
    assert scored.score("--prune").returncode == 0
    assert scored.changes() == [
        {"pruned": ["a.png", "s0.tar"], "changed": ["c.png"]},
        {"pruned": ["b.png"]},
    ]
    assert scored.rows() == sorted(["c.png", "d.png", *SHARDS[2:]])


def test_a_shard_in_parts_goes_and_changes_as_a_whole(scored, monkeypatch) -> None:
    monkeypatch.setattr(parquets, "PART_ROWS", 1)
    for name in ("p", "q"):
        table = pd.DataFrame({"path": [f"{k}.png" for k in range(3)], "image": [encoded()] * 3})
        table.to_parquet(scored.archive / f"{name}.parquet", row_group_size=1)
    assert scored.score().returncode == 0
    assert scored.verify() == (0, [])
    (scored.archive / "p.parquet").rename(scored.archive / "r.parquet")
    table.iloc[:2].to_parquet(scored.archive / "q.parquet", row_group_size=1)
    assert scored.score("--accept-changes", "--prune").returncode == 0
    expected = [f"r.parquet/{k}.png" for k in range(3)] + [f"q.parquet/{k}.png" for k in range(2)]
    assert scored.rows() == sorted(LOOSE + SHARDS + expected)
    assert scored.verify() == (0, [])
    assert scored.changes() == [{"pruned": ["p.parquet"], "changed": ["q.parquet"]}]


def test_tables_that_a_broken_off_clean_up_leaves(scored, monkeypatch) -> None:
    """They are not in the plan: verification reports them, and --prune removes them."""
    (scored.archive / "s0.tar").unlink()
    (scored.archive / "b.png").unlink()

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("sdmad.scoring.tables.remove_units", killed)
        with pytest.raises(KilledError):
            scored.score("--prune")
    code, shown = scored.verify()
    assert code == 1
    assert shown == [
        *("  doubled: a.png", "  doubled: c.png"),
        *("  not of this archive: b.png",),
        *(f"  not of this archive: {name}" for name in SHARDS[:2]),
    ]
    ended = scored.score("--prune")
    assert "removing tables that are in no plan, of 2 work units" in ended.stderr
    assert scored.rows() == sorted(["a.png", "c.png", *SHARDS[2:]])
    assert scored.verify() == (0, [])


def damaged_plan(scored: ScoredFolder) -> bytes:
    """A plan with a whole footer and damaged pages."""
    content = bytearray((scored.output / "plan.parquet").read_bytes())
    column = pq.read_metadata(scored.output / "plan.parquet").row_group(0).column(0)
    size = column.total_compressed_size
    content[4 : 4 + size] = b"\xff" * size
    return bytes(content)


@pytest.mark.parametrize("kind", ["text", "empty", "table", "columns", "damaged"])
def test_a_foreign_plan_is_one_sentence(scored, kind) -> None:
    path = scored.output / "plan.parquet"
    if kind == "table":
        pd.DataFrame({"x": [1]}).to_parquet(path)
    elif kind == "columns":
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    elif kind == "damaged":
        path.write_bytes(damaged_plan(scored))
    else:
        path.write_bytes(b"my own notes" * (kind == "text"))
    before = path.read_bytes()
    what = "is damaged; restore it" if kind == "damaged" else "is not the plan of a scoring run"
    places = (verify, "--archive", scored.archive, "--scores", scored.output)
    for ended in (scored.score(), scored.score("--prune"), run_command(*places)):
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"error: {path} {what}")
        assert len(ended.stderr.splitlines()) == 1
        assert not ended.stdout
    assert path.read_bytes() == before
    assert scored.rows() == sorted(LOOSE + SHARDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"job": "train_seeds"}), "holds the results of another job (train_seeds)"),
        (json.dumps({"seconds": 3}), "holds the results of another job (unknown)"),
        (json.dumps([1, 2]), "is not the record of a run"),
        ("notes", "is not the record of a run"),
        ("", "is not the record of a run"),
    ],
)
def test_a_record_of_another_job_is_one_sentence(scored, content, message) -> None:
    path = scored.output / "run.json"
    path.write_text(content)
    for options in ((), ("--prune",), ("--accept-changes",)):
        ended = scored.score(*options)
        assert ended.returncode == 2
        assert message in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert path.read_text() == content


def test_another_archive_is_refused(scored, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(encoded())
    ended = ScoredFolder(tmp_path / "other", scored.output).score("--prune")
    assert ended.returncode == 2
    assert "holds scores with archive" in ended.stderr
    assert scored.rows() == sorted(LOOSE + SHARDS)
