"""CPU time of scoring from activations compared with scoring from images, with many seeds.

    python benchmarks/activations.py                      # phantoms
    python benchmarks/activations.py --data DIRECTORY     # tar shards, such as those of ODIR-5K

A backbone with the shape of ViT-B/32 and random weights, and a detector with 8 seeds. Takes turns:

- images: this process calls the functions that the processes of a run call, from the shard to the
  score tables. Ray and the driver are left out, so a run takes more.
- activations, job: jobs/score_archive.py with all its processes. Start-up is excluded as in
  benchmarks/scoring_limit.py: the job runs on one shard and on many, and the difference counts.
- activations: this process, as for images.

Prints CPU milliseconds an image on one core and the ratio of images to each of the other two
(target 30), each with its range over turns, bytes an image, and the largest difference of a score.
The activations of the images are repeated under other names until they fill shards of 1,000.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
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
from sdmad.scoring.actor import BusyTime, DetectorActor, ModelActor
from sdmad.scoring.encode import EncoderActor
from sdmad.scoring.plan import encode_plan, plan_uri
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.stored import StoredDetectorActor, read_stored
from sdmad.scoring.tables import ScoreColumns
from sdmad.scoring.transport import disclosed

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runs" / "benchmark-activations"
BATCH = 64
SHARD_IMAGES = 1000
DECODE_SECONDS = 120.0
TIMEOUT = 3600.0
Reader = Callable[..., Iterator[dict[str, np.ndarray]]]


def actor_of(kind: type[ModelActor], model: object, **attributes: object) -> ModelActor:
    """An actor with a model that is here already."""
    actor = kind.__new__(kind)
    # Its constructor asks Ray for the CPUs of the node.
    own = {"mistake": None, "model": model, "threads": 1, "gpu": False, "_busy": BusyTime()}
    vars(actor).update(own | attributes)
    return actor


def write_unit(
    unit: WorkUnit, read: Reader, actor: ModelActor, output: str, schema: pa.Schema, table: str
) -> int:
    """Read a unit, compute its rows and write its tables; the number of images."""
    payload = {"payload": np.array([unit.to_json()], object)}
    rows = pa.concat_tables(disclosed(actor(batch)) for batch in read(payload, rows=BATCH))
    good = pa.array([stage == "" for stage in rows["stage"].to_pylist()])
    made = rows.filter(good).select(schema.names).cast(schema)
    commit(output, unit, made, table)
    return made.num_rows


def commit(output: str, unit: WorkUnit, rows: pa.Table, table: str) -> None:
    tables.commit_unit(output, unit.id, rows, tables.empty_failures(), {}, table)


def cpu(work: Callable[[WorkUnit], int], units: list[WorkUnit]) -> float:
    """CPU milliseconds of an image."""
    begin = time.process_time()
    images = sum(work(unit) for unit in units)
    return 1000 * (time.process_time() - begin) / images


def job(activations: str, detector: Path) -> tuple[float, int]:
    """Run the scoring job on activations; its CPU seconds and number of images."""
    output = PLACE / "job"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "jobs/score_archive.py", "--activations", activations]
    command += ["--detector", str(detector), "--output", str(output)]
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "RAY_ADDRESS")}
    log = PLACE / "score.log"
    try:
        cost = run_measured(command, env, ROOT, log, TIMEOUT)
    except subprocess.SubprocessError:
        sys.exit(f"the job failed; see {log}")
    return cost.cpu_seconds, json.loads((output / "run.json").read_text())["images"]


def further(few: str, many: str, detector: Path) -> float:
    """CPU milliseconds of each image that the second activations have more than the first."""
    (before, small), (after, large) = (job(place, detector) for place in (few, many))
    return 1000 * (after - before) / (large - small)


def write_shards(stored: Stored, rows: pa.Table, shards: int) -> tuple[str, list[WorkUnit]]:
    """Activations of shards of `SHARD_IMAGES`, made of `rows` again and again."""
    output = str(PLACE / f"activations-{shards}")
    rows = rows.take(np.arange(SHARD_IMAGES) % len(rows))
    units = []
    for number in range(shards):
        name = f"{number:04d}.tar"
        entry = storage.StoredObject(f"{stored.archive}/{name}", 1, "")
        units.append(WorkUnit.of("tar", stored.archive, [entry]))
        members = [f"{k:05d}.png" for k in range(SHARD_IMAGES)]
        names = {"uri": [f"{entry.uri}#{member}" for member in members], "member": members}
        names["archive"] = [name] * SHARD_IMAGES
        for key, values in names.items():
            column = rows.schema.get_field_index(key)
            rows = rows.set_column(column, rows.schema.field(key), pa.array(values))
        commit(output, units[-1], rows, tables.ACTIVATIONS)
    storage.write_bytes(plan_uri(output), encode_plan(units, stored.metadata()))
    return output, units


def largest_difference(one: str, other: str, unit: WorkUnit, names: list[str]) -> float:
    """The largest difference of a score of any seed."""
    parts = [tables.read_part(output, tables.SCORES, unit.id) for output in (one, other)]
    assert parts[0]["uri"] == parts[1]["uri"]
    pairs = [[part[name].combine_chunks().flatten().to_numpy() for part in parts] for name in names]
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def make_shard(data: Path | None, images: int) -> WorkUnit:
    """A shard of so many images."""
    if data is None:
        write_archive(str(PLACE / "phantoms"), pool=0, test=images)
        data = PLACE / "phantoms"
    archive = PLACE / "archive"
    archive.mkdir(parents=True)
    with tarfile.open(archive / "first.tar", "w") as shard:
        left = images
        for path in sorted(data.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar.getmembers()[:left]:
                    shard.addfile(member, tar.extractfile(member))
                    left -= 1
    [unit] = cut_units(str(archive), list_archive(str(archive)))
    return unit


def main(
    model: Annotated[str, typer.Option(help="open_clip model.")] = "ViT-B-32",
    seeds: Annotated[int, typer.Option(help="Seeds of the detector.")] = 8,
    images: Annotated[int, typer.Option(help="Images to score.", max=SHARD_IMAGES)] = 128,
    shards: Annotated[int, typer.Option(help="Shards that a job scores from activations.")] = 41,
    data: Annotated[Path | None, typer.Option(help="Folder with tar shards.")] = None,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
    jobs: Annotated[bool, typer.Option(help="Measure the job, not only its functions.")] = True,
) -> None:
    """Score from images and from activations; print CPU time, ratio and bytes."""
    torch.set_num_threads(1)
    shutil.rmtree(PLACE, ignore_errors=True)
    unit = make_shard(data, images)
    checkpoint = random_checkpoint(PLACE, model)
    backbone = load_backbone(BackboneConfig(model=model, pretrained=str(checkpoint)), "cpu")
    learner = LearnerConfig(steps=2, augment=AugmentConfig(views=1))
    contents = list(fit_files(backbone, seeds, learner))
    train = PLACE / "train"
    for seed, content in enumerate(contents):
        storage.write_bytes(fit_uri(str(train), 1, seed), content)
    detector = Detector(backbone, [deserialize(content, "") for content in contents], "single")
    layout = Layout.of(backbone)
    stored = Stored(unit.base, backbone.config, backbone.identity, detector.spec, layout)
    columns = ScoreColumns(detector.catalog.category_names, seeds, per_seed=True)

    encoded, scores, again = (str(PLACE / name) for name in ("encoded", "scores", "again"))
    read = partial(read_and_decode, spec=detector.spec, decode_seconds=DECODE_SECONDS)
    encoder = actor_of(EncoderActor, detector.encoder, layout=layout)
    of_images = actor_of(DetectorActor, detector, columns=columns, sliced=None)
    of_stored = actor_of(StoredDetectorActor, detector, columns=columns, layout=layout)

    def encode(unit: WorkUnit) -> int:
        return write_unit(unit, read, encoder, encoded, layout.schema, tables.ACTIVATIONS)

    def score_images(unit: WorkUnit) -> int:
        return write_unit(unit, read, of_images, scores, columns.schema, tables.SCORES)

    def score_stored(unit: WorkUnit, activations: str) -> int:
        from_there = partial(read_stored, activations=activations, layout=layout)
        return write_unit(unit, from_there, of_stored, again, columns.schema, tables.SCORES)

    encoding = cpu(encode, [unit])
    rows = tables.read_part(encoded, tables.ACTIVATIONS, unit.id)
    few, _ = write_shards(stored, rows, 1)
    many, made = write_shards(stored, rows, shards)
    found: dict[str, list[float]] = {}
    for turn in range(repeats):
        slow = cpu(score_images, [unit])
        fast = cpu(partial(score_stored, activations=many), made[:4])
        values = {"images": slow, "activations": fast, "ratio": slow / fast}
        if jobs:
            whole = further(few, many, train)
            values |= {"activations, job": whole, "ratio to the job": slow / whole}
        for name, value in values.items():
            found.setdefault(name, []).append(value)
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        print(f"turn {turn + 1}: {shown}", flush=True)
    score_stored(unit, encoded)

    print(f"{model}, {seeds} seeds, CPU ms an image on one core")
    for name, turns in found.items():
        print(f"  {name:17s} {ranged(turns)}")
    print(f"  {'encoding':17s} {encoding:.2f}")
    [file] = Path(encoded, "activations").iterdir()
    each = file.stat().st_size / rows.num_rows
    vectors = layout.bytes_per_image
    print(f"  {each:.0f} bytes an image, {vectors} of vectors before compression")
    names = [f"seeds_{name}" for name in columns.categories] + ["anomaly_seeds"]
    difference = largest_difference(scores, again, unit, names)
    print(f"  scores of {rows.num_rows} images differ by up to {difference:.0e}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
