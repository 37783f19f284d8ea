"""What an operator sees: the counters that Ray exports, and the log of the workers."""

import json
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import ray

from sdmad.archive.listing import list_archive
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.units import cut_units
from sdmad.scoring.monitoring import MOST_KINDS, ScoringMonitor
from sdmad.scoring.plan import read_plan
from sdmad.scoring.reading import read_and_decode
from tests.helpers import encoded
from tests.scoring.helpers import record


def exported(run: str) -> list[str]:
    """What the exporter of this Ray's node says of a run."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address) as answer:
        shown = answer.read().decode().splitlines()
    return [line for line in shown if f'run="{run}"' in line]


def totals(lines: list[str]) -> Counter[str]:
    """The sum of each metric over its tags."""
    value: Counter[str] = Counter()
    for line in lines:
        value[line.partition("{")[0]] += float(line.split()[-1])
    return value


def wait_for(metric: str, run: str, value: float) -> list[str]:
    """What the exporter says of a run once a metric of it has a value: it lags by a second."""
    deadline = time.monotonic() + 40
    while True:
        lines = exported(run)
        if totals(lines)[metric] == value:
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.2)


def test_a_run_exports_its_counters(mixed) -> None:
    run = record(mixed.output)
    for metric, value in [
        ("ray_sdmad_units_committed_total", run["units_total"]),
        ("ray_sdmad_images_scored_total", run["images"]),
        ("ray_sdmad_failures_total", run["failures"]),
    ]:
        lines = wait_for(metric, run["run"], value)
    failures = [line for line in lines if "sdmad_failures" in line]
    (unknown,) = (line for line in failures if 'reason="unknown image format"' in line)
    assert 'stage="decode"' in unknown
    assert any('stage="read"' in line for line in failures)
    stages = {line for line in lines if "sdmad_stage_seconds" in line}
    assert any('stage="model"' in line for line in stages)


@pytest.mark.usefixtures("ray_cluster")
def test_the_units_left_are_exported() -> None:
    """By a monitor of this process: Ray forgets gauges soon."""
    ScoringMonitor("gauge").commit(2, [], left=3)
    wait_for("ray_sdmad_units_left", "gauge", 3)


def test_workers_log_the_units_that_they_read(mixed) -> None:
    events = worker_events(record(mixed.output)["run"])
    read = [e["unit"] for e in events if e["event"] == "unit read"]
    assert sorted(read) == sorted(unit.id for unit in read_plan(mixed.output)[0])
    begun = [e for e in events if e["event"] == "unit begun"]
    assert {e["unit"] for e in begun} == set(read)
    # A second attempt decodes in quarantine: of the units whose file killed the first one.
    assert all(e["quarantine"] == (e["attempt"] > 0) for e in begun)
    again = {e["uri"] for e in begun if e["quarantine"]}
    assert again == {f"{mixed.archive}/crash.tar", f"{mixed.archive}/hang.tar"}


def test_no_log_line_names_a_loose_image(tmp_path, capfd) -> None:
    for name in ("miller.png", "jones.png"):
        (tmp_path / name).write_bytes(encoded())
    (unit,) = cut_units(str(tmp_path), list_archive(str(tmp_path)))
    spec = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3)
    batch = {"payload": np.array([unit.to_json()], object)}
    rows = sum(len(part["uri"]) for part in read_and_decode(batch, spec, 4, 60.0, "run"))
    assert rows == 2 + 1, "two images and the end of the unit"
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[:1] == "{"]
    (begun,) = (line for line in lines if line["event"] == "unit begun")
    assert (begun["uri"], begun["objects"]) == (str(tmp_path), 2)
    assert "miller" not in str(lines)


def worker_events(run: str) -> list[dict]:
    """The structured lines of a run in the log files of Ray's workers."""
    folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    lines = [line for path in folder.glob("worker-*.err") for line in path.read_text().splitlines()]
    parsed = [json.loads(line) for line in lines if line.startswith("{") and run in line]
    return [event for event in parsed if event["run"] == run]


def test_the_number_of_reasons_is_bounded(monkeypatch) -> None:
    monitor = ScoringMonitor("x")
    assert monitor._kind("damaged image: OSError: broken at 17") == "damaged image"
    assert monitor._kind("too many pixels: 60000 x 2") == "too many pixels"
    assert monitor._kind("DICOM of 9 frames with pixel data for 3") == (
        "DICOM of # frames with pixel data for #"
    )
    for k in range(MOST_KINDS):
        monitor._kind("k" * k)
    assert monitor._kind("something new") == "other"
