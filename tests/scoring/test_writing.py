"""Units are written in threads: all of them, a bounded number at once, and errors surface."""

import threading
import time

import pyarrow as pa
import pytest

from sdmad.errors import UserError
from sdmad.scoring import writing
from sdmad.scoring.writing import UnitWriter

ROWS = pa.table({"index": [0]})


def test_every_unit_is_written_and_few_wait() -> None:
    written, busy, most = [], [], []

    def write(unit: str, rows: pa.Table) -> str:
        busy.append(unit)
        most.append(len(busy))
        time.sleep(0.002)
        busy.remove(unit)
        written.append(unit)
        return unit

    results = []
    with UnitWriter(write) as writer:
        for k in range(100):
            writer.add(str(k), ROWS)
            assert len(writer._waiting) <= writing.MOST_WAITING
            results += writer.done()
    results += writer.done()
    assert sorted(results) == sorted(written) == sorted(map(str, range(100)))
    assert 1 < max(most) <= writing.THREADS


@pytest.mark.parametrize("late", [True, False])
def test_an_error_of_a_thread_ends_the_run_as_it_is(late) -> None:
    def write(unit: str, rows: pa.Table) -> str:
        if unit == "3":
            raise UserError("access denied")
        return unit

    writer = UnitWriter(write)
    with pytest.raises(UserError, match="access denied"), writer:
        for k in range(4 if late else 1000):
            writer.add(str(k), ROWS)
    assert {"0", "1", "2"} <= set(writer.done())


def test_an_error_of_the_driver_is_kept_and_units_in_progress_are_counted() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def write(unit: str, rows: pa.Table) -> str:
        begun.set()
        go_on.wait(10)
        return unit

    writer = UnitWriter(write)
    with pytest.raises(ValueError, match="driver"), writer:
        writer.add("0", ROWS)
        begun.wait(10)
        threading.Timer(0.05, go_on.set).start()
        raise ValueError("driver")
    assert list(writer.done()) == ["0"]


def test_a_stopped_job_waits_briefly_for_units_in_progress(monkeypatch) -> None:
    monkeypatch.setattr(writing, "STOP_SECONDS", 0.5)
    begun, go_on = threading.Event(), threading.Event()

    def write(unit: str, rows: pa.Table) -> str:
        begun.set()
        assert unit == "quick" or go_on.wait(30)
        time.sleep(0.05)
        return unit

    writer = UnitWriter(write)
    begin = time.monotonic()
    with pytest.raises(SystemExit), writer:
        for unit in ("quick", "slow"):
            writer.add(unit, ROWS)
        begun.wait(10)
        raise SystemExit(143)
    assert 0.4 < time.monotonic() - begin < 10
    assert list(writer.done()) == ["quick"]
    go_on.set()
