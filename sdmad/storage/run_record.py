"""`run.json`: what a run did, with which inputs, and when.

A run writes it when it starts and again when it ends.
"""

import json
from typing import Any

from sdmad import storage
from sdmad.errors import UserError


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
