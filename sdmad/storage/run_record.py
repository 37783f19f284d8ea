"""`run.json`: what a run did, with which inputs, and when.

A run writes it when it starts, every `SECONDS` while it works, and again when it ends.
"""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from sdmad import storage
from sdmad.errors import UserError

SECONDS = 10.0
SILENT_SECONDS = 6 * SECONDS
"""A run whose record is older than this has died, or has lost the storage."""

STATES = {
    "working": "working",
    "finished": "finished",
    "stopped": "stopped; the same command goes on",
    "failed": "failed; the log of the job says why, and the same command goes on",
    "silent": "NOT ALIVE: its driver was killed or cannot reach storage; the same command goes on",
}
"""What `state` returns, in words."""


def now() -> str:
    """This moment in UTC, as `run.json` writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(output: str, record: dict[str, Any]) -> None:
    content = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes(storage.join(output, "run.json"), content.encode())


def read_record(output: str) -> dict[str, Any]:
    """The record of the run at `output`. Raises `UserError` if there is none."""
    uri = storage.join(output, "run.json")
    if not storage.exists(uri):
        raise UserError(f"there is no run at {output}: run.json is missing; check the path")
    foreign = UserError(
        f"{uri} is not the record of a run; choose another path, or remove the file"
    )
    try:
        record = json.loads(storage.read_bytes(uri))
    except ValueError:
        raise foreign from None
    if not isinstance(record, dict):
        raise foreign
    return record


def read_any(output: str) -> dict[str, Any]:
    """The record of the run at `output`; empty if there is none."""
    there = storage.exists(storage.join(output, "run.json"))
    return read_record(output) if there else {}


def read_earlier(output: str, job: str) -> dict[str, Any]:
    """The record of an earlier run of `job` at `output`; empty if there is none.

    Raises `UserError` if `output` holds the results of another job, whose record would be lost.
    """
    if not storage.exists(storage.join(output, "run.json")):
        return {}
    record = read_record(output)
    if record.get("job") != job:
        other = record.get("job", "unknown")
        raise UserError(
            f"{output} holds the results of another job ({other}); choose another output"
        )
    return record


def age(record: dict[str, Any], key: str) -> float | None:
    """Seconds since the time under `key`, by the clock of this machine; None if there is none."""
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(record[key])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None


def state(record: dict[str, Any]) -> str:
    """`working`, `silent` (it says `running`, but has not been updated for a minute), or what the
    run has written at its end: `finished`, `stopped` or `failed`."""
    status = str(record.get("status", "unknown"))
    if status != "running":
        return status
    updated = age(record, "updated" if "updated" in record else "started")
    return "working" if updated is not None and updated < SILENT_SECONDS else "silent"


def check_identity(output: str, identity: dict[str, str], what: str) -> None:
    """Raise `UserError` if `output` holds results of a run with another identity.

    `what` names the results in the message, as in "fits".
    """
    if not storage.exists(storage.join(output, "run.json")):
        return
    before = read_record(output).get("identity", {})
    for key, value in identity.items():
        if before.get(key) != value:
            raise UserError(
                f"{output} holds {what} with another {key} ({before.get(key)}, now {value}); "
                "choose another output or use the same configuration"
            )


class Heartbeat:
    """Writes `run.json` every `SECONDS` while a block runs, so that others can see how far it is.

        with Heartbeat(output, lambda: record | {"images": tally.images, "updated": now()}):
            ...

    When the block has ended, nothing more is written. A write that fails is left out: the next one
    brings the same news.
    """

    def __init__(self, output: str, snapshot: Callable[[], dict[str, Any]]) -> None:
        self.output, self.snapshot = output, snapshot
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def __enter__(self) -> "Heartbeat":
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        with self._writing:
            pass

    def _beat(self) -> None:
        while not self._ended.wait(SECONDS):
            with self._writing, suppress(Exception):
                if not self._ended.is_set():
                    write_record(self.output, self.snapshot())
