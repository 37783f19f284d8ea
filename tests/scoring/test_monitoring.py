"""What an operator sees: the counters that Ray exports, logs, a stopped run."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from sdmad.scoring.monitoring import MOST_KINDS, ScoringMonitor
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.run import score_archive
from tests.helpers import ROOT, write_tar
from tests.scoring.test_run import encoded_phantom, finished, record


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_exports_its_counters_and_logs_its_units(training_run, tmp_path) -> None:
    write_tar(tmp_path / "a" / "s.tar", {"1.png": encoded_phantom(1), "2.png": b"none"})
    output = str(tmp_path / "scores")
    score_archive(str(tmp_path / "a"), str(training_run), output, PipelineConfig())
    run = record(output)["run"]
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, lines = time.monotonic() + 40, []
    while not any("sdmad_units_left" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(address) as answer:
            lines = [k for k in answer.read().decode().splitlines() if f'run="{run}"' in k]
    value = {line.partition("{")[0]: float(line.split()[-1]) for line in lines}
    assert value["ray_sdmad_images_scored_total"] == 1
    assert value["ray_sdmad_failures_total"] == 1
    assert value["ray_sdmad_units_committed_total"] == 1
    assert value["ray_sdmad_units_left"] == 0
    (failure,) = (line for line in lines if "sdmad_failures" in line)
    assert 'reason="unknown image format"' in failure
    assert 'stage="decode"' in failure
    stages = {line for line in lines if "sdmad_stage_seconds" in line}
    assert any('stage="model"' in line for line in stages)
    events = worker_events(run)
    assert {e["event"] for e in events} == {"unit begun", "unit read"}
    assert all(e["attempt"] == 0 and len(e["unit"]) == 16 for e in events)


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


def test_a_stopped_run_is_recorded_as_stopped_and_resumes(training_run, tmp_path) -> None:
    """SIGTERM in the middle of a run, as sent by `ray job stop` and by drained nodes."""
    archive, output = tmp_path / "archive", tmp_path / "scores"
    for k in range(30):
        content = encoded_phantom(k)
        write_tar(archive / f"{k:02d}.tar", {f"{k}-{j}.png": content for j in range(30)})
    command = [sys.executable, "jobs/score_archive.py", "--archive", str(archive)]
    command += ["--detector", str(training_run), "--output", str(output), "--batch-size", "8"]
    environment = os.environ | {"SDMAD_LOG": "json"}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(finished(output)) < 3:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    _, shown = driver.communicate(timeout=60)
    assert driver.returncode == 128 + signal.SIGTERM
    assert "stopped; run the same command again to resume" in shown
    assert "Traceback" not in shown
    events = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert {"progress", "unit committed"} <= {e["event"] for e in events}
    stopped = record(str(output))
    assert stopped["status"] == "stopped"
    assert 3 <= stopped["units_scored"] <= len(finished(output)) < 30
    done = len(finished(output))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)
    assert record(str(output))["units_skipped"] == done
    assert len(finished(output)) == 30
