"""A head that is lost: what ends the job, without a cluster. tests/cluster has the real thing."""

import os
import socket
import subprocess
import sys

import pytest

from sdmad.runtime import cli, head
from tests.helpers import ROOT

JOB = """
import signal, socket, time
from sdmad.runtime import cli, head
head.PROBE_SECONDS, head.LOST_SECONDS, cli.END_SECONDS = 0.05, 0.3, 0.5
head.ray.is_initialized = lambda: True
server = socket.create_server(("127.0.0.1", 0))
def job(how: str) -> None:
    head.watch("127.0.0.1:%d" % server.getsockname()[1])
    time.sleep(1)
    print("still here", flush=True)
    server.close()
    if how == "raises":
        raise RuntimeError("what Ray says")
    if how == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(60)
cli.run_command(job)
"""


@pytest.mark.parametrize("how", ["waits", "deaf", "raises"])
def test_a_lost_head_is_one_sentence_and_exit_code_2(how) -> None:
    """`deaf`: the main thread stays in native code; `raises`: Ray notices it first."""
    done = subprocess.run(
        [sys.executable, "-c", JOB, how],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout == "still here\n", "a head that answers ends nothing"
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: the Ray head at 127.0.0.1:")
    assert line.endswith("run the same command again to resume")


def test_a_library_user_is_not_watched(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert not cli.in_charge()
    head.watch(address)
    assert not head.lost()
    monkeypatch.setattr(head, "_watched", [address])
    assert f"the Ray head at {address} is lost" in head.lost()
