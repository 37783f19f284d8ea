"""The record of a run while it works: written again and again, and read by others."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sdmad.storage import run_record
from sdmad.storage.run_record import Heartbeat


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat(timespec="seconds")


def read(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_heartbeat_writes_until_its_block_ends(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_record, "SECONDS", 0.01)
    counts = {"images": 0}
    with Heartbeat(str(tmp_path), lambda: {"images": counts["images"]}):
        counts["images"] = 7
        deadline = time.monotonic() + 20
        while not (tmp_path / "run.json").exists() or read(tmp_path) != {"images": 7}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    counts["images"] = 8
    time.sleep(0.1)
    assert read(tmp_path) == {"images": 7}


def test_the_end_of_a_block_waits_for_a_write_and_a_failed_one_is_left_out(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(run_record, "SECONDS", 0.01)
    begun, written = threading.Event(), []

    def slow(output: str, record: dict) -> None:
        if not begun.is_set():
            begun.set()
            raise OSError("no storage")
        time.sleep(0.05)
        written.append(record)

    monkeypatch.setattr(run_record, "write_record", slow)
    with Heartbeat(str(tmp_path), dict):
        begun.wait(20)
        while not written:
            time.sleep(0.01)
    count = len(written)
    time.sleep(0.2)
    assert len(written) == count, "nothing is written after the block"


@pytest.mark.parametrize(
    ("status", "written", "since", "state"),
    [
        ("running", "updated", {"seconds": 9}, "working"),
        ("running", "updated", {"seconds": -30}, "working"),
        ("running", "updated", {"minutes": 5}, "silent"),
        ("running", "started", {"days": 1}, "silent"),
        ("stopped", "updated", {"minutes": 5}, "stopped"),
    ],
)
def test_a_run_that_has_not_written_for_a_minute_is_silent(status, written, since, state) -> None:
    record = {"status": status, written: ago(**since)}
    assert run_record.state(record) == state
    assert run_record.state({}) == "unknown"
