"""Progress lines of a run in a log."""

import json
import sys
import time

from sdmad import logs
from sdmad.runtime import progress
from sdmad.runtime.progress import Tracker


def test_lines_appear_while_a_run_waits(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    with Tracker("scoring", 4, "units") as tracker:
        time.sleep(0.3)
        tracker.update(2, "7 images, 1 failures, 3 images/s")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scoring: 0 of 4 units, 0 s, started"
    assert lines[1] == "scoring: 0 of 4 units, 0 s"
    assert lines[-2].startswith("scoring: 2 of 4 units, ")
    assert lines[-2].endswith(" s left, 7 images, 1 failures, 3 images/s")
    assert lines[-1].endswith("finished")
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_a_run_says_what_it_waits_for_until_something_is_done(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    with Tracker("scoring", 4, "units", progress.STARTING) as tracker:
        time.sleep(0.3)
        tracker.update(0)
        time.sleep(0.3)
        tracker.update(1)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    waiting = "scoring: 0 of 4 units, 0 s, starting: processes load the model"
    assert lines[1] == waiting
    assert lines.count(waiting) > 1
    assert lines[-2].endswith(" s left")


def test_lines_are_json_when_wanted(monkeypatch, capsys) -> None:
    monkeypatch.setenv("SDMAD_LOG", "json")
    with Tracker("scoring", 4, "units"):
        pass
    first = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (first["event"], first["done"], first["total"]) == ("progress", 0, 4)


def test_each_line_is_written_in_one_call(monkeypatch) -> None:
    """Otherwise a stop between text and end of line joins two lines."""
    written: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", written.append)
    logs.log("unit committed", unit="a")
    logs.notice("a sentence")
    progress.step("evaluating", "writing the report")
    with Tracker("scoring", 4, "units"):
        pass
    assert len(written) >= 4
    assert all(text.count("\n") == 1 for text in written)
    assert all(text.endswith("\n") for text in written)


def test_notices_and_steps_show_paths_as_typed(tmp_path, monkeypatch, capsys) -> None:
    """JSON lines are for programs, and keep absolute paths."""
    monkeypatch.chdir(tmp_path)
    logs.notice(f"the fits of before are at {tmp_path}/runs/earlier")
    progress.step("evaluating", f"reading {tmp_path}/scores")
    assert capsys.readouterr().err.splitlines() == [
        "notice: the fits of before are at runs/earlier",
        "evaluating: reading scores",
    ]
    monkeypatch.setenv("SDMAD_LOG", "json")
    logs.notice(f"{tmp_path}/x is empty")
    assert json.loads(capsys.readouterr().err)["text"] == f"{tmp_path}/x is empty"
