"""The state of training runs from their records and fits, without Ray."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from sdmad.commands.status import status
from sdmad.fitting.status import lines, read_status
from sdmad.storage import run_record
from tests.helpers import run_command


def test_fits_are_counted_by_shots(tmp_path) -> None:
    updated = datetime.now(UTC) - timedelta(seconds=3)
    record = {"job": "train_seeds", "status": "running", "updated": updated.isoformat()}
    record |= {"fits_total": 6, "fits_skipped": 1, "seconds": 60.0}
    run_record.write_record(str(tmp_path), record)
    for shots, seeds in ((1, 3), (2, 1)):
        for seed in range(seeds):
            path = tmp_path / f"fits/shots={shots}/seed={seed}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = read_status(str(tmp_path))
    assert (found.state, found.fits_done, found.fits_by_shots) == ("working", 4, {1: 3, 2: 1})
    assert found.seconds_per_fit == pytest.approx(20)
    assert found.seconds_left == pytest.approx(40)
    shown = "\n".join(lines(found))
    assert "4 of 6 fits, 3 at 1 shot, 1 at 2 shots" in shown
    assert "one fit in 20.0 s with the start-up of this run, about 40 s left" in shown
    content = json.loads(run_command(status, "--output", tmp_path, "--json").stdout)
    assert (content["job"], content["fits_by_shots"]) == ("train_seeds", {"1": 3, "2": 1})
