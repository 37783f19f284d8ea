"""Build a command line from a function and report user errors in one line."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType
from typing import Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from sdmad import logs
from sdmad.errors import UserError
from sdmad.words import as_typed

# How long the main thread may take to leave after `end`.
END_SECONDS = 10.0
# Set while a command runs, and what ends it from another thread.
_running = False
_ending = ""
# Whether SIGTERM has come. Ray and typer may turn its exception into another one.
_stopped = False


def run_command(command: Callable[..., Any]) -> None:
    """Run one function as a program, with the exit codes of `run_app`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a command line and report its errors.

    A `UserError` or a storage error becomes one line on stderr and exit code 2, as does the loss of
    the cluster's head. SIGTERM ends the process with exit code 143, Ctrl-C with 130.
    """
    global _running
    # `ray job stop` and drained nodes send SIGTERM; as an exception it lets `finally` blocks run.
    signal.signal(signal.SIGTERM, _stop)
    logs.quieten()
    _running = True
    try:
        app()
    except SystemExit as ended:
        if _ending:
            _abort(_ending)
        if _stopped:
            _leave(128 + signal.SIGTERM)
        # typer has made this of Ctrl-C.
        if ended.code == 128 + signal.SIGINT:
            _leave(128 + signal.SIGINT)
        raise
    except Exception as error:
        if _stopped and not _ending:
            _leave(128 + signal.SIGTERM)
        if sentence := _explained(error):
            _fail(sentence)
        if sentence := _lost_head():
            _abort(sentence)
        raise
    finally:
        _running = False


def say(text: str) -> None:
    """Print what a command tells the user, with paths as users type them."""
    typer.echo(as_typed(text))


def in_charge() -> bool:
    """Whether this process runs a command, rather than using the library."""
    return _running


def ending(error: BaseException) -> dict[str, str]:
    """How a run ends with this exception, for its record.

    `status` is `stopped` if the user or the cluster has stopped the command, otherwise `failed`.
    Then `error` is the sentence that the user sees, where there is one.
    """
    if not _ending and (_stopped or _interrupted(error)):
        return {"status": "stopped"}
    sentence = _ending or _explained(error) or _lost_head()
    return {"status": "failed"} | ({"error": sentence} if sentence else {})


def _interrupted(error: BaseException | None) -> bool:
    """Whether the exception is Ctrl-C, or was raised because of it."""
    seen: set[int] = set()
    while error and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _explained(error: BaseException) -> str:
    """The sentence for a mistake of the user or a storage error; empty for other exceptions."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, (PermissionError, BotoCoreError, ClientError)):
        text = " ".join(str(error).split())
        return f"storage failed: {text}; check permissions and whether the credentials have expired"
    return ""


def _lost_head() -> str:
    head = sys.modules.get("sdmad.runtime.head")
    return str(head.lost()) if head else ""


def end(sentence: str) -> None:
    """End the command from another thread, with one sentence and exit code 2."""
    global _ending
    _ending = sentence
    # A signal, and not only an exception, because the main thread may wait in native code.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(END_SECONDS)
    _abort(sentence)


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopped
    _stopped = True
    raise SystemExit(2 if _ending else 128 + number)


def _leave(code: int) -> None:
    """Exit without finalisation: Ray's threads abort an interpreter that shuts down mid-stream."""
    typer.echo("stopped; run the same command again to resume", err=True)
    ray = sys.modules.get("ray")
    if ray:
        ray.shutdown()
    _exit(code)


def _abort(sentence: str) -> None:
    """Exit without a word to Ray, which would wait for its head."""
    typer.echo(f"error: {as_typed(sentence)}", err=True)
    _exit(2)


def _exit(code: int) -> None:
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
    typer.echo(f"error: {as_typed(sentence)}", err=True)
    sys.exit(2)
