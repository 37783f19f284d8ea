"""Build a command line from a function and report user errors in one line."""

import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType
from typing import Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from sdmad.errors import UserError


def run_command(command: Callable[..., Any]) -> None:
    """Run one function as a program, with the exit codes of `run_app`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a command line and report its errors.

    A `UserError` or a storage error becomes one line on stderr and exit code 2. SIGTERM ends the
    process with exit code 143.
    """
    # `ray job stop` and drained nodes send SIGTERM; as an exception it lets `finally` blocks run.
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            _leave(stop.code)
        raise
    except UserError as error:
        _fail(str(error))
    except (PermissionError, BotoCoreError, ClientError) as error:
        _fail(
            f"storage failed: {error}; check permissions and whether the credentials have expired"
        )


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _leave(code: int) -> None:
    """Exit without finalisation: Ray's threads abort an interpreter that shuts down mid-stream."""
    typer.echo("stopped; run the same command again to resume", err=True)
    ray = sys.modules.get("ray")
    if ray:
        ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def require_extra(module: str, extra: str) -> None:
    """Raise `UserError` if `module` is not installed; sdmad's `extra` brings it."""
    if find_spec(module) is None:
        raise UserError(
            f"this command needs {module}, which is not installed: pip install 'sdmad[{extra}]'"
        )


def _fail(sentence: str) -> None:
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)
    sys.exit(2)
