"""CPU time of scoring from activations compared with scoring from images, with many seeds.

    python benchmarks/activations.py                      # phantoms
    python benchmarks/activations.py --data DIRECTORY     # tar shards, such as those of ODIR-5K

A backbone with the shape of ViT-B/32 and random weights, and a detector with 8 seeds. On the same
shards, in turns, with the functions that the processes of a run call: read, decode and score the
images; and read and score the activations that were written before. Both make the score tables of
whole work units. Prints CPU milliseconds an image on one core, their ratio with its range over
turns (target 30), bytes an image, and the largest difference of a score. Ray and the driver are on
neither side.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer
from gpu_forward import make_fits
from peers.inputs import random_checkpoint

from sdmad.activations import Layout
from sdmad.archive.listing import list_archive
from sdmad.archive.units import WorkUnit, cut_units
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.detector import Detector
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig
from sdmad.phantoms.task import write_archive
from sdmad.scoring import tables
from sdmad.scoring.actor import DetectorActor, ModelActor
from sdmad.scoring.encode import EncoderActor
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.stored import StoredDetectorActor, read_stored
from sdmad.scoring.tables import ScoreColumns

BATCH = 64
DECODE_SECONDS = 120.0
Reader = Callable[..., Iterator[dict[str, np.ndarray]]]


def actor_of(kind: type[ModelActor], model: object, **attributes: object) -> ModelActor:
    """An actor with a model that is here already."""
    actor = kind.__new__(kind)
    actor.mistake, actor.model, actor.threads = None, model, 1
    vars(actor).update(attributes)
    return actor


def write_unit(
    unit: WorkUnit, read: Reader, actor: ModelActor, output: str, schema: pa.Schema, table: str
) -> int:
    """Read a unit, compute its rows and write its tables; the number of images."""
    payload = {"payload": np.array([unit.to_json()], object)}
    rows = pa.concat_tables(map(actor, read(payload, rows=BATCH)))
    good = pa.array([stage == "" for stage in rows["stage"].to_pylist()])
    made = rows.filter(good).select(schema.names).cast(schema)
    tables.commit_unit(output, unit.id, made, tables.empty_failures(), {}, table)
    return made.num_rows


def cpu(work: Callable[[WorkUnit], int], units: list[WorkUnit]) -> float:
    """CPU milliseconds of an image."""
    begin = time.process_time()
    images = sum(work(unit) for unit in units)
    return 1000 * (time.process_time() - begin) / images


def largest_difference(one: str, other: str, units: list[WorkUnit], names: list[str]) -> float:
    """The largest difference of a score of any seed."""
    found = 0.0
    for unit in units:
        columns = [tables.read_part(output, tables.SCORES, unit.id) for output in (one, other)]
        assert columns[0]["uri"] == columns[1]["uri"]
        for name in names:
            a, b = (part[name].combine_chunks().flatten().to_numpy() for part in columns)
            found = max(found, float(np.abs(a - b).max()))
    return found


def main(
    model: Annotated[str, typer.Option(help="open_clip model.")] = "ViT-B-32",
    seeds: Annotated[int, typer.Option(help="Seeds of the detector.")] = 8,
    images: Annotated[int, typer.Option(help="Phantoms; with --data, images at most.")] = 256,
    data: Annotated[Path | None, typer.Option(help="Folder with tar shards.")] = None,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
) -> None:
    """Score from images and from activations; print CPU time, ratio and bytes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        archive = str(data.resolve() if data else folder / "archive")
        if not data:
            write_archive(archive, pool=images - images // 2, test=images // 2)
        units = [unit for unit in cut_units(archive, list_archive(archive)) if unit.kind == "tar"]
        checkpoint = random_checkpoint(folder, model)
        backbone = load_backbone(BackboneConfig(model=model, pretrained=str(checkpoint)), "cpu")
        few = LearnerConfig(steps=2, augment=AugmentConfig(views=1))
        detector = Detector(backbone, make_fits(backbone, seeds, few), "single")
        layout = Layout.of(backbone)
        columns = ScoreColumns(detector.catalog.category_names, seeds, per_seed=True)
        places = [str(folder / name) for name in ("activations", "images", "stored")]
        read = partial(read_and_decode, spec=detector.spec, decode_seconds=DECODE_SECONDS)
        stored = partial(read_stored, activations=places[0], layout=layout)
        encoder = actor_of(EncoderActor, detector.encoder, layout=layout)
        from_images = actor_of(DetectorActor, detector, columns=columns)
        from_stored = actor_of(StoredDetectorActor, detector, columns=columns, layout=layout)
        units = _some(units, images, read) if data else units

        def encode(unit: WorkUnit) -> int:
            where = (places[0], layout.schema, tables.ACTIVATIONS)
            return write_unit(unit, read, encoder, *where)

        def score_images(unit: WorkUnit) -> int:
            return write_unit(unit, read, from_images, places[1], columns.schema, tables.SCORES)

        def score_stored(unit: WorkUnit) -> int:
            return write_unit(unit, stored, from_stored, places[2], columns.schema, tables.SCORES)

        encoding = cpu(encode, units)
        score_stored(units[0])  # The first batch is slower.
        slow, fast = [], []
        for _ in range(repeats):
            slow.append(cpu(score_images, units))
            fast.append(cpu(score_stored, units))
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        files = sum(path.stat().st_size for path in Path(places[0], "activations").iterdir())
        parts = [tables.read_part(places[2], tables.SCORES, unit.id, ("uri",)) for unit in units]
        count = sum(part.num_rows for part in parts)
        print(f"{model}, {seeds} seeds, {count} images, CPU ms an image on one core")
        for name, values in (("images", slow), ("activations", fast), ("ratio", ratios)):
            low, high = min(values), max(values)
            print(f"  {name:12s} {statistics.median(values):8.2f} ({low:.2f} to {high:.2f})")
        print(f"  encoding     {encoding:8.2f}")
        print(f"  {files / count:.0f} bytes an image, {layout.bytes_per_image} of them vectors")
        names = [f"seeds_{name}" for name in columns.categories] + ["anomaly_seeds"]
        difference = largest_difference(places[1], places[2], units, names)
        print(f"  scores differ by up to {difference:.0e}")


def _some(units: list[WorkUnit], images: int, read: Reader) -> list[WorkUnit]:
    """Units that hold at least so many images together."""
    found, count = [], 0
    for unit in units:
        if count >= images:
            break
        found.append(unit)
        payload = {"payload": np.array([unit.to_json()], object)}
        count += sum(int((batch["stage"] == "").sum()) for batch in read(payload, rows=BATCH))
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(typer.run(main))
