import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT

WAITING = """
import time
from sdmad.runtime.cli import run_command
def wait() -> None:
    print("waiting", flush=True)
    time.sleep(60)
run_command(wait)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_how_to_go_on(number) -> None:
    command = [sys.executable, "-c", WAITING]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert shown == "stopped; run the same command again to resume\n"
