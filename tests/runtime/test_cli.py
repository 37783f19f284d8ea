import logging
import signal
import subprocess
import sys

import pytest

from sdmad.errors import UserError
from sdmad.runtime import cli
from tests.helpers import ROOT, run_command

# What a shell starts in the background ignores SIGINT.
WAITING = """
import signal
import time
signal.signal(signal.SIGINT, signal.default_int_handler)
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


@pytest.fixture
def after(monkeypatch):
    """How a run ends with an exception after a signal or a lost head."""

    def end(error: BaseException, stopped: bool = False, lost: str = "") -> dict[str, str]:
        monkeypatch.setattr(cli, "_stopped", stopped)
        monkeypatch.setattr(cli, "_ending", lost)
        return cli.ending(error)

    return end


def test_a_stopped_run_is_stopped_whatever_becomes_of_the_exception(after) -> None:
    assert after(RuntimeError("task cancelled"), stopped=True) == {"status": "stopped"}
    assert after(UserError("a worker died"), stopped=True) == {"status": "stopped"}
    assert after(KeyboardInterrupt()) == {"status": "stopped"}
    other = RuntimeError("interrupted")
    other.__cause__ = KeyboardInterrupt()
    assert after(other) == {"status": "stopped"}


def test_a_failed_run_has_the_sentence_that_the_user_sees(after) -> None:
    assert after(UserError("no images\nat x")) == {"status": "failed", "error": "no images at x"}
    assert after(RuntimeError("a bug")) == {"status": "failed"}
    lost = after(SystemExit(2), stopped=True, lost="the head is lost")
    assert lost == {"status": "failed", "error": "the head is lost"}
    assert after(PermissionError("x"))["error"].startswith("storage failed: x; check permissions")


CHANGED = """
import time
from sdmad.runtime.cli import run_command
def wait() -> None:
    print("waiting", flush=True)
    try:
        time.sleep(60)
    except SystemExit:
        raise RuntimeError("made of the exception of SIGTERM")
run_command(wait)
"""


def test_a_stopped_command_ends_as_such_with_another_exception() -> None:
    command = [sys.executable, "-c", CHANGED]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert shown == "stopped; run the same command again to resume\n"


def test_a_command_leaves_out_warnings_of_botocore(monkeypatch) -> None:
    logger = logging.getLogger("botocore")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    seen = []

    def look() -> None:
        seen.append(logger.level)

    run_command(look)
    assert seen == [logging.ERROR]
