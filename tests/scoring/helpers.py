"""Archives of phantoms, and the tables of a scoring run."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.units import WorkUnit
from sdmad.commands.encode import encode
from sdmad.commands.score import score
from sdmad.commands.verify import verify
from sdmad.phantoms.task import draw_example, encode_png
from sdmad.scoring.decisions import CategoryDecision, DecisionFile, Rate
from sdmad.scoring.ledger import END_OF_UNIT
from sdmad.scoring.pipeline import Operators
from sdmad.scoring.plan import Plan, make_plan
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.tables import FAILURES, commit_unit
from sdmad.scoring.transport import disclosed
from tests.helpers import Ended, run_command

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


def animation(form: str, **options: object) -> bytes:
    """A file of three pictures in a format of Pillow."""
    sink = io.BytesIO()
    first, *others = [Image.new("RGB", (16, 16), (grey,) * 3) for grey in (10, 120, 240)]
    first.save(sink, form, save_all=True, append_images=others, **options)
    return sink.getvalue()


def decision_file(
    detector: str,
    categories: list[str],
    threshold: float = 0.2,
    as_scored: tuple[str, ...] = (),
) -> DecisionFile:
    """A decision on categories: p = sigmoid(0.5 logit - 1), all with one threshold."""
    rate = Rate(value=0.9, low=0.8, high=1.0)
    one = CategoryDecision(
        threshold=threshold,
        threshold_interval=(threshold - 0.05, threshold + 0.05),
        slope=0.5,
        slope_interval=(0.4, 0.6),
        intercept=-1.0,
        prevalence=0.1,
        prevalence_of="user",
        images_with=20,
        images_without=80,
        patients_with=20,
        patients_without=80,
        auroc=0.8,
        sensitivity=rate,
        specificity=rate,
        findings_a_thousand=rate,
    )
    facts = dict.fromkeys(("code_version", "made", "backbone", "catalog", "scores", "labels"), "x")
    return DecisionFile(
        **facts,
        detector=detector,
        detector_uri="train",
        categories=categories,
        split="validation",
        images=100,
        patients=100,
        left_out={},
        target={"specificity": 0.95},
        bootstrap=100,
        by_category={name: None if name in as_scored else one for name in categories},
    )


def tables(output: str, kind: str) -> pa.Table:
    """All rows of a run: `kind` is scores or failures."""
    entries = storage.list_objects(storage.join(str(output), kind))
    contents = [storage.read_bytes(entry.uri) for entry in entries]
    return pa.concat_tables(pq.read_table(pa.BufferReader(content)) for content in contents)


def record(output: object) -> dict:
    return json.loads(storage.read_bytes(f"{output}/run.json"))


def finished(output: Path, kind: str = "scores") -> dict[str, int]:
    """The files of finished units, with the times at which they were written."""
    folder = output / kind
    parts = folder.glob("part-*.parquet") if folder.is_dir() else ()
    return {p.name: p.stat().st_mtime_ns for p in parts}


TINY = ImageSpec((8, 8), (0.5,) * 3, (0.5,) * 3)


def rows_of(unit: WorkUnit) -> Iterator[dict[str, Any]]:
    """The rows that a reader gives for a unit, one an image, by the function that Ray calls."""
    payload = {"payload": np.array([unit.to_json()], object)}
    for batch in read_and_decode(payload, TINY, 64, 60.0):
        for k, index in enumerate(batch["index"]):
            if index != END_OF_UNIT:
                yield {name: batch[name][k] for name in FAILURES.names}


def commit(output: str, unit: WorkUnit) -> None:
    """Read a unit and write its tables; the scores have only the names of images."""
    rows = list(rows_of(unit))
    scored = pa.Table.from_pylist([row for row in rows if not row["stage"]], FAILURES)
    failed = pa.Table.from_pylist([row for row in rows if row["stage"]], FAILURES)
    commit_unit(output, unit.id, scored.select(["uri", "archive", "member"]), failed, {})


def read_archive(archive: str, output: str, **options: bool) -> Plan:
    """A scoring run without Ray and without a detector. Finished units are skipped."""
    identity = {"archive": archive, "detector": "none", "per_seed": "false"}
    plan = make_plan(archive, output, identity, **options)
    for unit in plan.todo:
        commit(output, unit)
    return plan


@dataclass(frozen=True)
class ScoredFolder:
    """An archive in a folder, and the output of its runs."""

    archive: Path
    output: Path

    def score(self, *options: str) -> Ended:
        places = ("--archive", self.archive, "--output", self.output, "--detector", "d")
        return run_command(score, *places, *options)

    def verify(self, *options: str) -> tuple[int, list[str]]:
        """The exit code, and the lines after the counts."""
        places = ("--archive", self.archive, "--scores", self.output)
        ended = run_command(verify, *places, *options)
        return ended.returncode, ended.stdout.splitlines()[1:]

    def rows(self) -> list[str]:
        """The names in the tables."""
        found = [row for kind in ("scores", "failures") for row in self._rows(kind)]
        return sorted("/".join(filter(None, (row["archive"], row["member"]))) for row in found)

    def _rows(self, kind: str) -> list[dict]:
        return tables(str(self.output), kind).to_pylist()

    def changes(self) -> list[dict]:
        """What run.json records of changes, without the ids and times of runs."""
        kept = []
        for entry in record(self.output)["changes"]:
            assert entry.pop("run")
            assert entry.pop("time")
            kept.append(entry)
        return kept


class Encoded:
    """An archive in a folder, its activations, and scores from images and from activations."""

    def __init__(self, folder: Path, detector: Path) -> None:
        self.archive, self.activations = folder / "archive", folder / "activations"
        self.images, self.scores = folder / "images", folder / "scores"
        self.detector = detector

    def encode(self, *options: object) -> Ended:
        places = ("--archive", self.archive, "--output", self.activations)
        return run_command(encode, *places, "--detector", self.detector, *options)

    def score(self, *options: object, output: Path | None = None) -> Ended:
        places = ("--activations", self.activations, "--output", output or self.scores)
        return run_command(score, *places, "--detector", self.detector, *options)

    def score_images(self, *options: object) -> Ended:
        places = ("--archive", self.archive, "--output", self.images)
        return run_command(score, *places, "--detector", self.detector, *options)

    def verify(self, *what: object) -> Ended:
        return run_command(verify, "--archive", self.archive, *what)


def in_process(
    units: list, operators: Operators, config: Any, run: str, quarantine: bool
) -> Iterator[pa.Table]:
    """`stream_rows` without Ray: the same functions and actors, one unit after the other."""
    model = operators.actor(*operators.arguments)
    for unit in units:
        payload = {"payload": np.array([unit.to_json()], object)}
        options = operators.options | {"rows": 7, "run": run, "quarantine": quarantine}
        yield from map(disclosed, map(model, operators.read(payload, **options)))
