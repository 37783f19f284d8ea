"""The head of a cluster is lost in the middle of a run of a driver that is not a part of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdmad.scoring.verify import verify_scores
from tests.cluster.local import Head, local_head
from tests.helpers import ROOT, write_tar
from tests.scoring.helpers import encoded_phantom, score_command

pytestmark = pytest.mark.cluster
UNITS, IMAGES = 30, 20


def driver(head: Head, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A job on the cluster; it has joined it by its address, as `sdmad score` does."""
    environment = head.environment | {
        "RAY_ADDRESS": head.address,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    with (folder / "shown").open("wb") as shown:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=shown, stderr=shown)


@pytest.mark.parametrize("lost", ["gcs_server", "all"])
def test_a_lost_head_ends_the_run_with_one_sentence(lost, training_run, tmp_path) -> None:
    """`gcs_server` is the process of the head that others need; with `all`, the node on which the
    driver's tasks run goes too."""
    archive, output = tmp_path / "archive", tmp_path / "scores"
    content = encoded_phantom(3)
    for k in range(UNITS):
        members = {f"{k}-{j}.png": content for j in range(IMAGES)}
        write_tar(archive / f"{k:02d}.tar", members)
    command = score_command(archive, training_run, output)
    with local_head(tmp_path, cpus=2) as head:
        job = driver(head, command, tmp_path)
        deadline = time.monotonic() + 200
        while len(list(output.glob("scores/part-*"))) < 3:
            assert job.poll() is None, (tmp_path / "shown").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        head.kill(lost)
        begin = time.monotonic()
        code = job.wait(150)
        seconds = time.monotonic() - begin
    shown = (tmp_path / "shown").read_text()
    print(f"{lost}: exit code {code} after {seconds:.0f} s\n{shown}", file=sys.stderr)
    assert code == 2
    assert seconds < 60
    lines = [line for line in shown.splitlines() if not line.startswith(("scoring: ", "notice: "))]
    assert len(lines) == 1, shown
    assert lines[0].startswith(f"error: the Ray head at {head.address} is lost")
    done = len(list(output.glob("scores/part-*")))
    assert 3 <= done < UNITS
    assert json.loads((output / "run.json").read_text())["status"] == "failed"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=200)
    assert json.loads((output / "run.json").read_text())["units_skipped"] == done
    assert verify_scores(str(archive), str(output)).passed
