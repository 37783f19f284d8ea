"""The state of scoring runs from their records and tables, without Ray."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sdmad import storage
from sdmad.archive.units import WorkUnit
from sdmad.commands.status import status
from sdmad.scoring import status as module
from sdmad.scoring.plan import encode_plan
from sdmad.scoring.status import Failures, lines, read_status
from sdmad.scoring.tables import FAILURES, commit_unit, empty_failures
from sdmad.scoring.tally import Tally
from sdmad.storage import run_record
from tests.helpers import run_command
from tests.scoring.helpers import record


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def working_record() -> dict[str, Any]:
    """The record of a run that works now."""
    return WORKING | {"updated": ago(6), "last_commit": ago(14)}


WORKING: dict[str, Any] = {
    "job": "score_archive",
    "run": "3f2a91bc",
    "status": "running",
    "archive": "s3://hospital/chest",
    "units_total": 40,
    "units_scored": 8,
    "seconds": 100.0,
    "seconds_to_first_scores": 20.0,
    "images_per_second": 20.5,
    "all_runs": {"units": 10, "images": 20, "failures": 5},
    "bottleneck": "model",
    "bottleneck_because": "busy seconds of each process: model 60.0 s, write 0.1 s",
}


def write_unit(
    folder: Path, number: int, images: int, reasons: list[str], detector: str = "x"
) -> None:
    names = [f"{number}-{k}.png" for k in range(images + len(reasons))]
    rows = [{"uri": f"a.tar#{n}", "archive": "a.tar", "member": n} for n in names]
    scored = pa.Table.from_pylist(rows[:images], pa.schema(list(FAILURES)[:3]))
    failed = [
        row | {"stage": "decode", "reason": reason}
        for row, reason in zip(rows[images:], reasons, strict=True)
    ]
    table = pa.Table.from_pylist(failed, empty_failures().schema)
    commit_unit(str(folder), f"{number:016x}", scored, table, {"detector": detector})


def write_plan(folder: Path, units: int) -> None:
    planned = [WorkUnit(f"{k:016x}", "tar", "x", (), (k, k + 1)) for k in range(units)]
    (folder / "plan.parquet").write_bytes(encode_plan(planned, {"archive": "x"}))


@pytest.fixture
def working(tmp_path) -> Path:
    """A run with ten of 40 units, two of them with failures."""
    run_record.write_record(str(tmp_path), working_record())
    write_plan(tmp_path, 40)
    for number in range(10):
        write_unit(tmp_path, number, 2, [], detector="x" * (10 * (number % 3)))
    # What an earlier plan has left does not count.
    write_unit(tmp_path, 77, 2, ["damaged image: x"])
    write_unit(tmp_path, 3, 2, ["damaged image: OSError: broken at 17", "too large: 12 bytes"])
    write_unit(tmp_path, 7, 2, [f"damaged image: SyntaxError: {k}" for k in range(3)])
    # A killed run leaves failures of a unit without scores, which do not count.
    write_unit(tmp_path, 99, 0, ["damaged image: x"])
    (tmp_path / "scores" / f"part-{99:016x}.parquet").unlink()
    return tmp_path


def test_a_working_run(working) -> None:
    found = read_status(str(working))
    assert (found.state, found.units_done, found.units_left) == ("working", 10, 30)
    assert (found.images, found.failed, found.exact) == (20, 5, True)
    assert found.seconds_left == pytest.approx(30 * (100 - 20) / 8)
    assert [(k.stage, k.reason, k.images) for k in found.failures.kinds] == [
        ("decode", "damaged image", 4),
        ("decode", "too large", 1),
    ]
    assert (found.failures.tables_read, found.failures.tables) == (2, 2)
    examples = found.failures.kinds[0].examples
    assert len(examples) == 3
    assert all(example.shard == "a.tar" for example in examples)


def test_one_screen_names_no_image_unless_asked(working) -> None:
    shown = run_command(status, "--output", working).stdout
    for part in (
        "working, last sign of life ",
        "10 of 40 work units (25%), 20 images with scores, 5 failures",
        "20.5 images/s, including start-up, about 5 min left",
        "bottleneck  model; busy seconds of each process: model 60.0 s",
        "failures    5 in 2 tables of failures",
        "       4  decode: damaged image",
        f"a.tar, row 1 of failures/part-{3:016x}.parquet",
    ):
        assert part in shown
    assert ".png" not in shown
    assert len(shown.splitlines()) < 25
    assert "a.tar#3-2.png" in run_command(status, "--output", working, "--names").stdout


def test_json_has_the_same_for_machines(working) -> None:
    content = json.loads(run_command(status, "--output", working, "--json").stdout)
    assert (content["job"], content["units_done"], content["images"]) == ("score_archive", 10, 20)
    assert content["failures"]["kinds"][1]["examples"][0]["row"] == 2
    assert ".png" not in json.dumps(content)


def test_numbers_that_a_killed_run_has_not_counted_are_estimates(working) -> None:
    run_record.write_record(
        str(working), working_record() | {"all_runs": {"units": 5, "images": 11, "failures": 2}}
    )
    found = read_status(str(working))
    assert (found.images, found.failed, found.exact) == (22, 4, False)
    assert "about 22 images with scores" in "\n".join(lines(found))
    uncounted = {key: value for key, value in working_record().items() if key != "all_runs"}
    run_record.write_record(str(working), uncounted | {"updated": ago(500)})
    found = read_status(str(working))
    assert (found.images, found.failed, found.exact) == (20, 5, True), "few tables are all read"
    assert (found.state, found.seconds_left) == ("silent", None)
    assert "NOT ALIVE" in "\n".join(lines(found))


def test_the_largest_tables_are_read_and_the_limit_is_told(working, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_TABLES", 1)
    found = read_status(str(working))
    assert found.failures == Failures(found.failures.kinds, 1, 2)
    assert 0 < found.failures.images < 5
    assert "1 table of failures, the largest of 2; the others were not read" in "\n".join(
        lines(found)
    )


@pytest.mark.parametrize("most", [200, 4, 2])
def test_empty_tables_of_any_metadata_are_no_failures(tmp_path, monkeypatch, most) -> None:
    monkeypatch.setattr(module, "MOST_TABLES", most)
    run_record.write_record(str(tmp_path), working_record())
    write_plan(tmp_path, 9)
    for number in range(9):
        write_unit(tmp_path, number, 1, [], detector="d" * 40 * (number % 3))
    shown = "\n".join(lines(read_status(str(tmp_path))))
    assert "failures    none" in shown
    write_unit(tmp_path, 4, 1, ["damaged image"])
    assert "failures    1 in 1 table of failures\n" in "\n".join(lines(read_status(str(tmp_path))))


def test_a_run_that_a_mistake_has_ended_says_which(tmp_path) -> None:
    write_plan(tmp_path, 1)
    ended = {"status": "failed", "error": "holds scores in half precision"}
    run_record.write_record(str(tmp_path), working_record() | ended)
    shown = run_command(status, "--output", tmp_path).stdout
    assert "state       failed: holds scores in half precision\n" in shown


def test_without_empty_tables_all_are_read(tmp_path) -> None:
    run_record.write_record(str(tmp_path), working_record())
    write_plan(tmp_path, 2)
    for number in range(2):
        write_unit(tmp_path, number, 1, ["damaged image"])
    assert read_status(str(tmp_path)).failures.images == 2


def test_a_run_that_has_just_begun(tmp_path) -> None:
    write_plan(tmp_path, 40)
    new = {"units_scored": 0, "last_commit": None, "seconds_to_first_scores": None}
    zero = {"all_runs": {"units": 0, "images": 0, "failures": 0}, "images_per_second": 0.0}
    run_record.write_record(str(tmp_path), working_record() | new | zero | {"bottleneck": None})
    shown = "\n".join(lines(read_status(str(tmp_path))))
    assert "no unit written yet" in shown
    assert "0 of 40 work units (0%), 0 images with scores, 0 failures" in shown
    assert "not known yet, time left not known" in shown
    assert "failures    none" in shown


@pytest.mark.parametrize(
    ("record", "message"),
    [(None, "there is no run at"), ({"job": "evaluate"}, "another job (evaluate)")],
)
def test_outputs_of_other_kinds_are_refused(tmp_path, record, message) -> None:
    if record:
        run_record.write_record(str(tmp_path), record)
    result = run_command(status, "--output", tmp_path)
    assert (result.returncode, message in result.stderr) == (2, True)


def test_a_run_with_nothing_to_do_keeps_what_the_real_run_measured(scored) -> None:
    before = record(scored.output)
    assert (before["status"], before["units_scored"]) == ("finished", 3)
    assert before["all_runs"]["units"] == 3
    ended = scored.score()
    assert ended.stdout.startswith("nothing to do: 3 work units scored before; the tables are at ")
    after = record(scored.output)
    assert after.pop("checked")
    assert after == before


def test_counts_go_on_over_runs(scored) -> None:
    (scored.archive / "new.png").write_bytes((scored.archive / "a.png").read_bytes())
    ended = scored.score()
    assert ended.stdout.startswith("scored 0 images in 1 work unit, 0 failures; ")
    after = record(scored.output)
    assert (after["units_scored"], after["units_skipped"]) == (1, 3)
    assert after["all_runs"]["units"] == 4


def test_the_bottleneck_is_explained_by_what_it_compares() -> None:
    tally = Tally(readers=14, detectors=1)
    tally.seconds |= {"read": 9.0, "decode": 63.0, "model": 31.0, "write": 0.8}
    assert tally.share()["decode"] > tally.share()["model"]
    assert tally.bottleneck() == "model"
    assert tally.bottleneck_because() == (
        "busy seconds of each process: model 31.0 s, reading and decoding 5.1 s (72.0 s on 14 "
        "readers), write 0.1 s (0.8 s on 8 threads), list 0.0 s"
    )


def test_a_run_in_a_bucket_has_the_same_state(working, s3) -> None:
    for path in working.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{s3}/status/{path.relative_to(working)}", path.read_bytes())
    local, remote = read_status(str(working)), read_status(f"{s3}/status")
    for name in ("state", "units_done", "units_total", "images", "failed", "failures"):
        assert getattr(local, name) == getattr(remote, name)
    shown = run_command(status, "--output", f"{s3}/status")
    assert (shown.returncode, "10 of 40 work units (25%)" in shown.stdout) == (0, True)


def test_an_encoding_run(tmp_path) -> None:
    run_record.write_record(str(tmp_path), working_record() | {"job": "encode_archive"})
    units = [WorkUnit(f"{k:016x}", "tar", "x", (), (k, k + 1)) for k in range(40)]
    (tmp_path / "plan.parquet").write_bytes(encode_plan(units, {"archive": "x", "layout": "{}"}))
    for number in range(10):
        write_unit(tmp_path, number, 2, ["damaged image: x"] * (number == 3))
    (tmp_path / "scores").rename(tmp_path / "activations")
    found = read_status(str(tmp_path))
    assert (found.units_done, found.failures.images) == (10, 1)
    shown = run_command(status, "--output", tmp_path).stdout
    assert shown.startswith("encoding s3://hospital/chest to ")
    assert "10 of 40 work units (25%), 20 images encoded, 5 failures" in shown
