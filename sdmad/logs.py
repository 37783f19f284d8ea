"""Structured logs: one JSON object per line.

Worker processes always log to their stderr, which Ray keeps in one file per process. The driver
logs to its stderr if `SDMAD_LOG=json`, in place of progress lines. Each line has `time`, `event`
and the fields of the event (`run`, `unit`, `attempt`, ...). No line contains pixels, labels or the
names of images: neither those of a shard's members nor those of loose objects; nor those of
patients or other groups. Commands with `--names` write them where the user asks for it.
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime

from sdmad.words import as_typed


def wanted() -> bool:
    """Whether the driver logs in JSON."""
    return os.environ.get("SDMAD_LOG", "") == "json"


def quieten() -> None:
    """Leave out botocore's warnings, for the whole process: errors that last become exceptions.

    Called where a command or a worker starts, so that importing sdmad changes no logger.
    """
    logging.getLogger("botocore").setLevel(logging.ERROR)


def log(event: str, **fields: object) -> None:
    """Write one line to stderr."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    write(json.dumps({"time": now, "event": event, **fields}))


def write(line: str) -> None:
    """Write a line to stderr in one call.

    `print` makes two, and a stop that comes between text and end of line joins two lines.
    """
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Notice(str):
    """A sentence without names of images and groups; `named` is the same sentence with names."""

    named: str

    def __new__(cls, text: str, named: str = "") -> "Notice":
        made = super().__new__(cls, text)
        made.named = named or text
        return made

    def after(self, start: str) -> "Notice":
        """The sentence with `start` before it."""
        return Notice(f"{start}{self}", f"{start}{self.named}")


def notice(text: str, names: bool = False) -> None:
    """Tell the user something that does not end the job, on stderr; `names` names images."""
    if names and isinstance(text, Notice):
        text = text.named
    if wanted():
        log("notice", text=text)
    else:
        write(f"notice: {as_typed(text)}")
