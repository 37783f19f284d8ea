"""The reading side of the pipeline: images of a work unit, decoded, as columns.

Imported by reader processes, which need neither torch nor a backbone.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdmad.archive.decode import DecodeError, decode
from sdmad.archive.members import Member, read_unit
from sdmad.archive.naming import clean
from sdmad.archive.units import WorkUnit
from sdmad.images import ImageSpec

END_OF_UNIT = -1
_TEXT = ("unit", "uri", "archive", "member", "stage", "reason")


def read_and_decode(
    batch: dict[str, np.ndarray], spec: ImageSpec, rows: int
) -> Iterator[dict[str, np.ndarray]]:
    """The images of one unit, `rows` at a time, as columns with `pixels` (n, H, W, 3) uint8.

    A bad image is a row with `stage` and `reason` and black pixels.
    """
    unit = WorkUnit.from_json(str(batch["payload"][0]))
    pending: list[dict[str, Any]] = []
    total = 0
    for member in read_unit(unit):
        pending.append(_decoded_row(unit, member, spec))
        total += 1
        if len(pending) == rows:
            yield _columns(pending)
            pending = []
    pending.append(
        dict.fromkeys(_TEXT, "")
        | {"unit": unit.id, "index": END_OF_UNIT, "total": total, "stage": "end"}
        | {
            "read_seconds": 0.0,
            "decode_seconds": 0.0,
            "pixels": np.zeros((*spec.size, 3), np.uint8),
        }
    )
    yield _columns(pending)


def _decoded_row(unit: WorkUnit, member: Member, spec: ImageSpec) -> dict[str, Any]:
    start = time.monotonic()
    stage, reason = ("read", member.reason) if member.content is None else ("", "")
    pixels = np.zeros((*spec.size, 3), np.uint8)
    if member.content is not None:
        try:
            pixels = decode(member.content, spec)
        except DecodeError as error:
            stage, reason = "decode", str(error)
    return {
        "unit": unit.id,
        "index": member.index,
        "total": -1,
        "uri": clean(member.uri),
        "archive": clean(member.archive),
        "member": clean(member.name),
        "stage": stage,
        "reason": clean(reason),
        "read_seconds": member.seconds,
        "decode_seconds": time.monotonic() - start,
        "pixels": pixels,
    }


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {
        name: np.array([row[name] for row in rows], dtype=object) for name in _TEXT
    }
    columns["index"] = np.array([row["index"] for row in rows], np.int64)
    columns["total"] = np.array([row["total"] for row in rows], np.int64)
    for name in ("read_seconds", "decode_seconds"):
        columns[name] = np.array([row[name] for row in rows], np.float32)
    columns["pixels"] = np.stack([row["pixels"] for row in rows])
    return columns
