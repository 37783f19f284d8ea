"""`run.json`: what a run did, with what, when; written at its start and again at its end."""

import json
from typing import Any

from sdmad import storage
from sdmad.errors import UserError


def write_record(output: str, record: dict[str, Any]) -> None:
    content = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes(storage.join(output, "run.json"), content.encode())


def read_record(output: str) -> dict[str, Any]:
    """The record of a run; `UserError` when there is none."""
    uri = storage.join(output, "run.json")
    if not storage.exists(uri):
        raise UserError(f"there is no run at {output}: run.json is missing")
    return json.loads(storage.read_bytes(uri))
