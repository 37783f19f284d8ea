"""Score activations: what `sdmad encode` has written of an archive, instead of its images.

    score_activations(activations, "runs/odir/train", output, PipelineConfig())

The work units are those of the activations, and failures are theirs, so the tables are those of a
run that reads the archive.
"""

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from sdmad.activations import KEYS, Layout, Stored, User, from_arrow
from sdmad.archive.units import WorkUnit
from sdmad.errors import UserError
from sdmad.fits import Provenance, load_fits
from sdmad.method.decision import Decision
from sdmad.runtime.cluster import Resources
from sdmad.scoring import tables
from sdmad.scoring.actor import ModelActor
from sdmad.scoring.images import described
from sdmad.scoring.pipeline import Operators
from sdmad.scoring.plan import SCORING, Source, read_plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.reading import chained
from sdmad.scoring.run import Task, run_task
from sdmad.scoring.status import JOB
from sdmad.scoring.tables import ScoreColumns, score_rows
from sdmad.scoring.tally import Tally
from sdmad.storage import StoredObject, run_record

if TYPE_CHECKING:
    from sdmad.detector import Detector

DETECTOR_SHARE = 0.75
"""Share of the CPUs that score; the others read."""


def read_stored(
    batch: dict[str, np.ndarray],
    activations: str,
    layout: Layout,
    rows: int,
    quarantine: bool = False,
    run: str = "",
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the images of one unit, `rows` at a time, as columns: those of `layout` by image.

    Failures follow, as rows without content. `quarantine` is for readers of images.
    """
    unit = WorkUnit.from_json(str(batch["payload"][0]))
    images = _images(unit.id, activations, layout)
    yield from chained(unit.id, images, rows, layout.blank(), run, objects=len(unit.objects))


def _images(unit: str, activations: str, layout: Layout) -> Iterator[dict[str, Any]]:
    begin = time.monotonic()
    good, failed = (
        tables.read_part(activations, table, unit) for table in (tables.ACTIVATIONS, "failures")
    )
    columns = from_arrow(good)
    each = (time.monotonic() - begin) / max(1, good.num_rows + failed.num_rows)
    seconds = {"read_seconds": each, "decode_seconds": 0.0}
    for k, row in enumerate(good.select(KEYS).to_pylist()):
        values = {name: column[k] for name, column in columns.items()}
        yield row | values | seconds | {"unit": unit, "stage": "", "reason": ""}
    for row in failed.to_pylist():
        yield row | dict.fromkeys(layout.blank()) | seconds | {"unit": unit}


class StoredDetectorActor(ModelActor["Detector"]):
    """A detector that scores activations, on CPUs."""

    def __init__(
        self,
        uri: str,
        backbone: str | None,
        columns: ScoreColumns,
        layout: Layout,
        threads: int,
        decision: Decision | None = None,
    ) -> None:
        def load() -> "Detector":
            # Here, because a driver does without open_clip.
            from sdmad.backbones.loading import load_backbone
            from sdmad.detector import Detector

            load_backbone.cache_clear()
            detector = Detector.load(uri, "cpu", backbone, "single")
            detector.decision = decision
            detector.backbone.image.blocks.to("meta")  # They are not run; this frees memory.
            load_backbone.cache_clear()
            return detector

        super().__init__(load, threads)
        self.columns, self.layout = columns, layout

    def rows(self, batch: dict[str, np.ndarray], good: np.ndarray) -> pa.Table:
        scores = None
        if len(good):
            stored = {name: batch[name][good] for name in self.layout.blank()}
            tower = self.model.backbone.image
            scores = self.model.score_activations(
                *self.layout.restore(stored, tower, torch.device("cpu"))
            )
        return score_rows(scores, good, len(batch["unit"]), self.columns)


def score_activations(
    activations: str,
    detector_uri: str,
    output: str,
    config: PipelineConfig,
    per_seed: bool = True,
    backbone: str | None = None,
    accept_changes: bool = False,
    prune: bool = False,
    decision_uri: str | None = None,
) -> Tally:
    """Score the activations at a URI; the other arguments are those of `score_archive`.

    Raises `UserError` before any work starts when activations, detector and output do not match.
    """
    run_record.read_earlier(output, JOB)
    units, facts = read_plan(activations, tables.ACTIVATIONS)
    stored = Stored.of(facts, activations)
    check_complete(activations, units)
    fits = load_fits(detector_uri)
    check_fits(fits[0].provenance, detector_uri, stored, activations)
    made = described(stored.archive, detector_uri, fits, per_seed, decision_uri)
    metadata = made.metadata | {"source": "activations", "activations": activations}
    del fits

    def operators(filled: PipelineConfig) -> Operators:
        return Operators(
            read_stored,
            {"activations": activations, "layout": stored.layout},
            StoredDetectorActor,
            (
                detector_uri,
                backbone,
                made.columns,
                stored.layout,
                filled.detector_threads,
                made.decision,
            ),
        )

    task = Task(
        JOB,
        stored.archive,
        SCORING,
        made.columns.schema,
        metadata,
        operators,
        units_of(activations, units, output),
        on_cpus,
        made.decision,
    )
    return run_task(task, output, config, accept_changes, prune)


def on_cpus(config: PipelineConfig, resources: Resources) -> PipelineConfig:
    """The filled configuration: detectors on CPUs, each in one thread, and as many as fit.

    What is left of a forward pass is too small to be divided among threads.
    """
    most = max(1, math.ceil(resources.cpus * DETECTOR_SHARE))
    changes = {
        "detectors": config.detectors or (1, most),
        "detector_threads": 1,
        "detector_gpus": 0.0,
        "precision": "single",
    }
    return config.model_copy(update=changes).fill(resources)


def check_complete(activations: str, units: list[WorkUnit]) -> None:
    """Raise `UserError` if units are planned and not encoded."""
    missing = {unit.id for unit in units} - tables.done_units(activations, tables.ACTIVATIONS)
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(units):,} work units are not encoded yet at {activations}; "
            "run the same `sdmad encode` again to finish it"
        )


def check_fits(known: Provenance, uri: str, stored: Stored, activations: str) -> None:
    """Raise `UserError` if the fits at `uri` cannot score these activations."""
    spec = known.input.apply(known.identity.input)
    blocks = known.learner.adapter.image.blocks
    user = User(
        f"the detector {uri}",
        "the detector's backbone",
        "--detector",
        "score images with --archive",
    )
    stored.check(activations, known.identity, spec, blocks, user)


def units_of(activations: str, units: list[WorkUnit], output: str) -> Source:
    """The units of activations, for the plan of scores at `output`.

    A plan of other units (of the same objects, cut in another way) is refused: their rows are not
    in the files of activations.
    """
    there = {unit.id for unit in units}
    other = UserError(
        f"{output} is planned in other work units than the activations {activations}; choose "
        "another output"
    )

    def cut(new: list[StoredObject], unfinished: list[WorkUnit]) -> Iterator[WorkUnit]:
        if any(unit.id not in there for unit in unfinished):
            raise other
        wanted = {entry.uri for entry in new}
        for unit in units:
            names = {entry.uri for entry in unit.objects}
            if names <= wanted:
                yield unit
            elif names & wanted:
                raise other

    return Source(lambda: (entry for unit in units for entry in unit.objects), cut)
