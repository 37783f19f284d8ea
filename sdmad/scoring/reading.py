"""The readers of the pipeline: they read and decode the images of a work unit.

Reader processes import this module; it needs neither torch nor a backbone.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sdmad.archive import decode
from sdmad.archive.decode import Frame
from sdmad.archive.members import Member, read_unit
from sdmad.archive.naming import clean, frame_name, image_uri
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.quarantine import Decoder, watchdog
from sdmad.archive.units import WorkUnit
from sdmad.logs import log, quieten
from sdmad.runtime.cluster import attempt
from sdmad.scoring.ledger import END_OF_UNIT, START, extend

_TEXT = ("unit", "uri", "archive", "member", "stage", "reason")
_NUMBERS = ("index", "digest", "before")
_SECONDS = ("read_seconds", "decode_seconds")
Decode = Callable[[bytes], Iterable[Frame]]


def read_and_decode(
    batch: dict[str, np.ndarray],
    spec: ImageSpec,
    rows: int,
    decode_seconds: float,
    quarantine: bool = False,
    run: str = "",
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the images of one unit, `rows` at a time, as columns; `pixels` is (n, H, W, 3) uint8.

    An image that cannot be read or decoded is a row with `stage`, `reason` and black pixels. With
    `quarantine`, or if an earlier reader of the unit died, images are decoded in a separate
    process. `digest` and `before` chain the rows of the unit (`sdmad.scoring.ledger`).
    """
    unit = WorkUnit.from_json(str(batch["payload"][0]))
    quarantine = quarantine or attempt() > 0
    # The URI of a loose object is the name of an image, which logs do not contain.
    what = clean(unit.base if unit.kind == "objects" else unit.objects[0].uri)
    begun = {"quarantine": quarantine, "uri": what, "objects": len(unit.objects)}
    black = {"pixels": np.zeros((*spec.size, 3), np.uint8)}
    with _decoder(spec, decode_seconds, quarantine) as decode_file:
        yield from chained(unit.id, _rows(unit, decode_file), rows, black, run, **begun)


def chained(
    unit: str,
    images: Iterable[dict[str, Any]],
    rows: int,
    blank: dict[str, np.ndarray],
    run: str,
    **begun: Any,
) -> Iterator[dict[str, np.ndarray]]:
    """The images of a unit as columns, `rows` at a time, then the row that ends the unit.

    `blank` has what stands for the content of an image without one, where a row has None. `digest`
    and `before` chain the rows (`sdmad.scoring.ledger`). `begun` is for the log.
    """
    quieten()
    pending: list[dict[str, Any]] = []
    total, digest, begin = 0, START, time.monotonic()
    about = {"run": run, "unit": unit, "attempt": attempt()}
    log("unit begun", **begun, **about)
    for row in images:
        before, digest = digest, extend(digest, row["uri"], row["member"], row["stage"])
        pending.append(row | {"index": total, "digest": digest, "before": before})
        total += 1
        if len(pending) == rows:
            yield _columns(pending, blank)
            pending = []
    end: dict[str, Any] = dict.fromkeys(_TEXT, "") | dict.fromkeys(_SECONDS, 0.0)
    end |= {"unit": unit, "index": END_OF_UNIT, "digest": digest, "before": digest}
    end |= {"stage": "end"} | dict.fromkeys(blank)
    seconds = round(time.monotonic() - begin, 3)
    log("unit read", images=total, seconds=seconds, **about)
    yield _columns([*pending, end], blank)


@contextmanager
def _decoder(spec: ImageSpec, seconds: float, quarantine: bool) -> Iterator[Decode]:
    """Decodes in this process, or in a separate one."""
    if quarantine:
        with Decoder(spec, seconds) as apart:
            yield apart.frames
        return

    def here(content: bytes) -> Iterator[Frame]:
        found = decode.frames(content, spec)
        while True:
            with watchdog(seconds):
                frame = next(found, None)
            if frame is None:
                return
            yield frame

    yield here


def _rows(unit: WorkUnit, decode_file: Decode) -> Iterator[dict[str, Any]]:
    for member in read_unit(unit):
        if member.content is None:
            yield _row(unit, member, Frame(None, None), "read", member.reason, 0.0)
            continue
        start = time.monotonic()
        seconds = member.seconds
        for frame in decode_file(member.content):
            taken = time.monotonic() - start
            stage = "decode" if frame.pixels is None else ""
            yield _row(unit, member, frame, stage, frame.reason, taken) | {"read_seconds": seconds}
            start, seconds = time.monotonic(), 0.0


def _row(
    unit: WorkUnit, member: Member, frame: Frame, stage: str, reason: str, seconds: float
) -> dict[str, Any]:
    name = member.name if unit.kind != "objects" else None
    return {
        "unit": unit.id,
        "uri": clean(image_uri(member.uri, name, frame.number)),
        "archive": clean(member.archive),
        "member": clean(frame_name(member.name, frame.number)),
        "stage": stage,
        "reason": clean(reason),
        "read_seconds": member.seconds,
        "decode_seconds": seconds,
        "pixels": frame.pixels,
    }


def _columns(rows: list[dict[str, Any]], blank: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {
        name: np.array([row[name] for row in rows], dtype=object) for name in _TEXT
    }
    for name in _NUMBERS:
        columns[name] = np.array([row[name] for row in rows], np.int64)
    for name in _SECONDS:
        columns[name] = np.array([row[name] for row in rows], np.float32)
    for name, nothing in blank.items():
        columns[name] = np.stack([nothing if row[name] is None else row[name] for row in rows])
    return columns
