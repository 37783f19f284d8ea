"""Structured logs: one JSON object per line.

Worker processes always log to their stderr, which Ray keeps in one file per process. The driver
logs to its stderr if `SDMAD_LOG=json`, in place of progress lines. Each line has `time`, `event`
and the fields of the event (`run`, `unit`, `attempt`, ...). No line contains pixels, labels or the
names of images: neither those of a shard's members nor those of loose objects.
"""

import json
import os
import sys
from datetime import UTC, datetime


def wanted() -> bool:
    """Whether the driver logs in JSON."""
    return os.environ.get("SDMAD_LOG", "") == "json"


def log(event: str, **fields: object) -> None:
    """Write one line to stderr."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": now, "event": event, **fields}), file=sys.stderr, flush=True)


def notice(text: str) -> None:
    """Tell the user something that does not end the job, on stderr."""
    if wanted():
        log("notice", text=text)
    else:
        print(f"notice: {text}", file=sys.stderr, flush=True)
