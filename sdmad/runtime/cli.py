"""What every job shares: a command line made from a function, and errors for people."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from sdmad.errors import UserError


def run_job(main: Callable[..., Any]) -> None:
    """Run `main` as a command: a `UserError` becomes one sentence on stderr and exit code 2."""
    # A job that is stopped (`ray job stop`, a drained node) ends as one that is interrupted.
    signal.signal(signal.SIGTERM, _stop)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            _leave(stop.code)
        raise
    except UserError as error:
        _fail(str(error))
    except (PermissionError, BotoCoreError, ClientError) as error:
        _fail(f"storage refuses: {error}; check credentials, their age, and permissions")


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _leave(code: int) -> None:
    """End at once: Ray's threads abort an interpreter that shuts down in the middle of a stream."""
    typer.echo("stopped; the same command again resumes", err=True)
    ray = sys.modules.get("ray")
    if ray:
        ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fail(sentence: str) -> None:
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)
    sys.exit(2)
