"""Structured logs: one JSON object a line, for programs to search.

Worker processes write to their own stderr, which Ray keeps a file each of; the driver writes to its
stderr when `SDMAD_LOG=json`, in place of progress lines. Fields: `time`, `event`, and what the
event is about (`run`, `unit`, `attempt`, ...). No pixel, no label, no name of a member.
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
