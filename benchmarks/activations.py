"""CPU time of scoring from activations compared with scoring from images, with many seeds.

    python benchmarks/activations.py                      # phantoms
    python benchmarks/activations.py --data DIRECTORY     # tar shards, such as those of ODIR-5K

A backbone with the shape of ViT-B/32 and random weights, and a detector with 8 seeds. Both sides
score the same images in turns, as jobs with all their processes. Prints CPU milliseconds an image
and their ratio (target 30), each with its range over turns, bytes an image, and the largest
difference of a score.

Start-up is excluded as in benchmarks/scoring_limit.py: each job runs on a few shards and on more,
and the difference counts. Start-ups differ by seconds of CPU, so activations of many images are
needed: those of the shards are written `--copies` times, under other names of shards.

The same without Ray and driver is printed too: in this process, the functions that the processes of
a run call, from the shard to the score tables.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer
from gpu_forward import fit_files
from peers.inputs import random_checkpoint
from peers.processes import run_measured
from peers.ranges import ranged

from sdmad import storage
from sdmad.activations import Layout, Stored
from sdmad.archive.listing import list_archive
from sdmad.archive.units import WorkUnit, cut_units
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.detector import Detector
from sdmad.fits import deserialize, fit_uri
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig
from sdmad.phantoms.task import write_archive
from sdmad.scoring import tables
from sdmad.scoring.actor import DetectorActor, ModelActor
from sdmad.scoring.encode import EncoderActor
from sdmad.scoring.plan import encode_plan, plan_uri
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.stored import StoredDetectorActor, read_stored
from sdmad.scoring.tables import ScoreColumns

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runs" / "benchmark-activations"
BATCH = 64
DECODE_SECONDS = 120.0
TIMEOUT = 3600.0
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


def job(source: str, place: str, detector: Path, output: Path) -> tuple[float, int]:
    """Run the scoring job on an archive or activations; its CPU seconds and number of images."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "jobs/score_archive.py", f"--{source}", place]
    command += ["--detector", str(detector), "--output", str(output)]
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "RAY_ADDRESS")}
    log = PLACE / "score.log"
    try:
        cost = run_measured(command, env, ROOT, log, TIMEOUT)
    except subprocess.SubprocessError:
        sys.exit(f"the job failed; see {log}")
    return cost.cpu_seconds, json.loads((output / "run.json").read_text())["images"]


def further(source: str, few: str, many: str, detector: Path) -> float:
    """CPU milliseconds of each image that the second place has more than the first."""
    (before, small), (after, large) = (
        job(source, place, detector, PLACE / f"scores-{source}-{name}")
        for name, place in (("few", few), ("many", many))
    )
    return 1000 * (after - before) / (large - small)


def write_copies(stored: Stored, units: list[WorkUnit], encoded: str, copies: int) -> str:
    """Activations like those of `units`, so many times, under other names of shards."""
    output = str(PLACE / f"activations-{copies}")
    planned = []
    for copy in range(copies):
        for unit in units:
            entry = unit.objects[0]
            name = entry.uri if copy == 0 else f"{entry.uri}-{copy}.tar"
            objects = [storage.StoredObject(name, entry.size, entry.etag)]
            planned.append(WorkUnit.of("tar", stored.archive, objects))
            rows = tables.read_part(encoded, tables.ACTIVATIONS, unit.id)
            uris = [uri.replace(entry.uri, name) for uri in rows["uri"].to_pylist()]
            field = rows.schema.field("uri")
            rows = rows.set_column(rows.schema.get_field_index("uri"), field, pa.array(uris))
            empty = tables.empty_failures()
            tables.commit_unit(output, planned[-1].id, rows, empty, {}, tables.ACTIVATIONS)
    storage.write_bytes(plan_uri(output), encode_plan(planned, stored.metadata()))
    return output


def largest_difference(units: list[WorkUnit], names: list[str]) -> float:
    """The largest difference of a score of any seed between the runs on both sides."""
    found = 0.0
    outputs = [str(PLACE / f"scores-{source}-many") for source in ("archive", "activations")]
    for unit in units:
        columns = [
            tables.read_part(output, tables.SCORES, unit.id).sort_by("uri") for output in outputs
        ]
        assert columns[0]["uri"] == columns[1]["uri"]
        for name in names:
            a, b = (part[name].combine_chunks().flatten().to_numpy() for part in columns)
            found = max(found, float(np.abs(a - b).max()))
    return found


def make_archives(data: Path | None, shards: int) -> tuple[str, str]:
    """Folders with half of `shards` shards and with all."""
    few, many = PLACE / "few", PLACE / "many"
    if data is None:
        write_archive(str(PLACE / "phantoms"), pool=0, test=200 * shards)
        data = PLACE / "phantoms"
    tars = sorted(data.glob("*.tar"))[:shards]
    for folder, content in ((few, tars[: len(tars) // 2]), (many, tars)):
        folder.mkdir(parents=True)
        for tar in content:
            shutil.copyfile(tar, folder / tar.name)
    return str(few), str(many)


def main(
    model: Annotated[str, typer.Option(help="open_clip model.")] = "ViT-B-32",
    seeds: Annotated[int, typer.Option(help="Seeds of the detector.")] = 8,
    shards: Annotated[int, typer.Option(help="Shards to score; phantoms: of 200 images.")] = 4,
    copies: Annotated[int, typer.Option(help="How often activations are written.")] = 40,
    data: Annotated[Path | None, typer.Option(help="Folder with tar shards.")] = None,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
) -> None:
    """Score from images and from activations; print CPU time, ratio and bytes."""
    torch.set_num_threads(1)
    shutil.rmtree(PLACE, ignore_errors=True)
    few, many = make_archives(data, shards)
    checkpoint = random_checkpoint(PLACE, model)
    backbone = load_backbone(BackboneConfig(model=model, pretrained=str(checkpoint)), "cpu")
    learner = LearnerConfig(steps=2, augment=AugmentConfig(views=1))
    contents = list(fit_files(backbone, seeds, learner))
    for seed, content in enumerate(contents):
        storage.write_bytes(fit_uri(str(PLACE / "train"), 1, seed), content)
    detector = Detector(backbone, [deserialize(content, "") for content in contents], "single")
    layout = Layout.of(backbone)
    stored = Stored(many, backbone.config, backbone.identity, detector.spec, layout)
    columns = ScoreColumns(detector.catalog.category_names, seeds, per_seed=True)

    encoded, scores = str(PLACE / "activations"), str(PLACE / "scores")
    read = partial(read_and_decode, spec=detector.spec, decode_seconds=DECODE_SECONDS)
    again = partial(read_stored, activations=encoded, layout=layout)
    encoder = actor_of(EncoderActor, detector.encoder, layout=layout)
    of_images = actor_of(DetectorActor, detector, columns=columns)
    of_stored = actor_of(StoredDetectorActor, detector, columns=columns, layout=layout)

    def encode(unit: WorkUnit) -> int:
        return write_unit(unit, read, encoder, encoded, layout.schema, tables.ACTIVATIONS)

    def score_images(unit: WorkUnit) -> int:
        return write_unit(unit, read, of_images, scores, columns.schema, tables.SCORES)

    def score_stored(unit: WorkUnit) -> int:
        return write_unit(unit, again, of_stored, scores, columns.schema, tables.SCORES)

    units = list(cut_units(many, list_archive(many)))
    first = units[: len(units) // 2]
    encoding = cpu(encode, units)
    places = [write_copies(stored, units, encoded, number) for number in (1, copies + 1)]
    rows = [tables.read_part(encoded, tables.ACTIVATIONS, unit.id, ("uri",)) for unit in units]
    images = sum(part.num_rows for part in rows)
    cpu(score_stored, first)  # The first batches are slower.
    found: dict[str, list[float]] = {}

    def note(name: str, slow: float, fast: float) -> None:
        for kind, value in (("images", slow), ("activations", fast), ("ratio", slow / fast)):
            found.setdefault(f"{name}{kind}", []).append(value)
        print(f"  {name}{slow:.2f} and {fast:.3f} ms, {slow / fast:.1f} x", flush=True)

    train = PLACE / "train"
    for turn in range(repeats):
        print(f"turn {turn + 1}", flush=True)
        slow = further("archive", few, many, train)
        note("run: ", slow, further("activations", *places, train))
        note("one process: ", cpu(score_images, first), cpu(score_stored, 5 * units))

    print(f"{model}, {seeds} seeds, {images} images, CPU ms an image")
    for name, values in found.items():
        print(f"  {name:25s} {ranged(values)}")
    print(f"  {'one process: encoding':25s} {encoding:.2f}")
    files = sum(path.stat().st_size for path in Path(encoded, "activations").iterdir())
    print(
        f"  {files / images:.0f} bytes an image, vectors before compression: "
        f"{layout.bytes_per_image}"
    )
    names = [f"seeds_{name}" for name in columns.categories] + ["anomaly_seeds"]
    print(f"  scores differ by up to {largest_difference(units, names):.0e}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
