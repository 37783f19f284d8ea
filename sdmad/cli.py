"""What every job shares: a command line made from a function, and errors for people."""

import sys
from collections.abc import Callable
from typing import Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from sdmad.errors import UserError


def run_job(main: Callable[..., Any]) -> None:
    """Run `main` as a command: a `UserError` becomes one sentence on stderr and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except (PermissionError, BotoCoreError, ClientError) as error:
        _fail(f"storage refuses: {error}; check credentials, their age, and permissions")


def _fail(sentence: str) -> None:
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)
    sys.exit(2)
