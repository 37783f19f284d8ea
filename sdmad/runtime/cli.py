"""What every job shares: a command line made from a function, and errors for people."""

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
    """Run one function as a whole program; `run_app` says how it ends."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a command line: a `UserError` becomes one sentence on stderr and exit code 2."""
    # A job that is stopped (`ray job stop`, a drained node) ends as one that is interrupted.
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


def require_extra(module: str, extra: str) -> None:
    """Raise `UserError` when `module` is not installed; it comes with an extra of this package."""
    if find_spec(module) is None:
        raise UserError(
            f"this command needs {module}, which is not installed: pip install 'sdmad[{extra}]'"
        )


def _fail(sentence: str) -> None:
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)
    sys.exit(2)
