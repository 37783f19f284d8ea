"""Archives of phantoms, and the tables of a scoring run."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.phantoms.task import draw_example, encode_png

# The job as a process that sends itself a signal when it is about to write a file of scores: the
# failures of that unit are written, its scores are not. Scores are written one after the other, so
# that the files before that one are complete.
INTERRUPTED = """
import os, signal, threading
from sdmad import storage
write, written, alone = storage.write_bytes, [], threading.Lock()
def interrupted(uri, content):
    if "/scores/part-" not in uri:
        return write(uri, content)
    with alone:
        written.append(uri)
        if len(written) == {number}:
            os.kill(os.getpid(), signal.{signal})
        write(uri, content)
storage.write_bytes = interrupted
from sdmad.commands.score import score
from sdmad.runtime.cli import run_command
run_command(score)
"""


def score_command(
    archive: object, detector: object, output: object, interrupted: tuple[str, int] | None = None
) -> list[str]:
    """`python jobs/score_archive.py`; with `interrupted`, a signal and the number of the file of
    scores before which it comes."""
    job = ["jobs/score_archive.py"]
    if interrupted:
        signal, number = interrupted
        job = ["-c", INTERRUPTED.format(signal=signal, number=number)]
    options = {"--archive": archive, "--detector": detector, "--output": output}
    options["--batch-size"] = 8
    return [sys.executable, *job, *(str(part) for option in options.items() for part in option)]


def encoded_phantom(index: int) -> bytes:
    """A phantom of the test split, as PNG."""
    return encode_png(draw_example(index, "test").image)


def tables(output: str, kind: str) -> pa.Table:
    """All rows of a run: `kind` is scores or failures."""
    entries = storage.list_objects(storage.join(str(output), kind))
    contents = [storage.read_bytes(entry.uri) for entry in entries]
    return pa.concat_tables(pq.read_table(pa.BufferReader(content)) for content in contents)


def record(output: object) -> dict:
    return json.loads(storage.read_bytes(f"{output}/run.json"))


def finished(output: Path) -> dict[str, int]:
    """The files of finished units, with the times at which they were written."""
    folder = output / "scores"
    parts = folder.glob("part-*.parquet") if folder.is_dir() else ()
    return {p.name: p.stat().st_mtime_ns for p in parts}
