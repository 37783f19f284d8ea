r"""Speed of a scoring run compared with the limit of this machine.

    python benchmarks/scoring_limit.py model       # ViT-B/32 at 224 pixels, random weights
    python benchmarks/scoring_limit.py decode      # the embedded backbone on 1024-pixel images

`model`: images a second of jobs/score_archive.py on tar shards from an S3 server on this machine,
compared with the same detector in one process on pixels in memory, on the GPU if there is one, else
on all cores. The target is 0.90. On a GPU:

    python benchmarks/scoring_limit.py model --model ViT-L-14-336 --side 512 \
        --images 2000 --copies 10

`decode`: CPU seconds an image of the same job, all its processes together, compared with one
process that reads, decodes and scores on one core. The target is 1.15. The ratio to one such
process on each core at the same time is printed too, because cores that share caches and memory
slow each other down.

The limits are measured in new processes without start-up and first batch: scoring in the
environment of a detector's process, reading and decoding in that of a reader's.

Both also compare the time that jobs/plan_cluster.py predicts for the archive, from the run.json of
its first shards, with the measured time.

Start-up is excluded as in benchmarks/peers/run.py: the job is timed from outside on the archive and
on its first shards, and the difference counts. Start-ups differ by seconds of CPU; `--copies`
spreads these seconds over more images. Both sides take turns. The CPU of the S3 server is not
counted, but it runs on the same cores.
"""

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from job_processes import KINDS, kind_of
from peers.inputs import SHORT_SHARDS, Inputs, make_inputs
from peers.processes import Cost, run_measured
from peers.ranges import ranged

from sdmad import storage
from sdmad.archive.decode import decode
from sdmad.backbones.config import PHANTOM
from sdmad.demo.local_s3 import local_s3
from sdmad.detector import Detector
from sdmad.runtime.cluster import MODEL_ENVIRONMENT
from sdmad.scoring.capacity import Archive, Cluster, Pace, estimate

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runs" / "limit"
ARCHIVE, SHORT = "s3://limit/archive", "s3://limit/short"
BATCH = 64
TIMEOUT = 3 * 3600.0
CORES = os.cpu_count() or 1
PARTS = ("read", "decode", "model")
OTHERS = "Ray"


class Bound(StrEnum):
    model = "model"
    decode = "decode"

    @property
    def unit(self) -> str:
        return "images a second" if self is Bound.model else "CPU ms an image"

    def shown(self, seconds: float) -> float:
        """Seconds of an image in this unit."""
        return 1 / seconds if self is Bound.model else 1000 * seconds

    def ratio(self, ours: float, limit: float) -> float:
        """The ratio that the target is about; both arguments are seconds of an image."""
        return limit / ours if self is Bound.model else ours / limit


@dataclass(frozen=True)
class Turn:
    """Both sides measured once.

    `ours`, `limit` (by part) and `crowded` (the limit with a process on every core) are seconds of
    an image: wall clock for `model`, CPU for `decode`. `start` is the start-up in seconds,
    `planned` the predicted over the measured time, `processes` CPU seconds of an image by kind of
    process, `others` the share of the cores that other processes took, `busy` the pace in run.json.
    """

    ours: float
    limit: list[float]
    crowded: float
    start: float
    planned: float
    processes: dict[str, float]
    others: float
    busy: dict[str, float]


def score(detector: Path, archive: str, options: list[str]) -> tuple[Cost, dict[str, Any]]:
    """Run the scoring job with `options`; its cost and its run.json."""
    output = PLACE / "scores"
    for path in sorted(output.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    output.mkdir(parents=True, exist_ok=True)
    job = [sys.executable, str(ROOT / "jobs" / "score_archive.py"), "--archive", archive]
    job += ["--detector", str(detector), "--output", str(output), *options]
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "RAY_ADDRESS")}
    cost = run_measured(job, env, ROOT, PLACE / "score.log", TIMEOUT)
    return cost, json.loads((output / "run.json").read_text())


def planned(short: dict[str, Any], images: int, shards: list[Path]) -> float:
    """Seconds that the planner predicts for `images` in such shards, from the `short` run.

    Readers and the detector share the cores, so the busy seconds of each include waiting for the
    other. The planner takes the longer of the two.
    """
    size = sum(path.stat().st_size for path in shards)
    each = short["images"] // SHORT_SHARDS
    archive = Archive(
        images=images, bytes_per_image=size / (each * len(shards)), images_per_object=each
    )
    minutes = short["seconds_to_first_scores"] / 60
    cluster = Cluster(cores=CORES, detectors=1, gigabits=100, start_minutes=minutes)
    return 3600 * estimate(archive, Pace.of_run(short), cluster).hours


def by_process(cost: Cost) -> dict[str, float]:
    """CPU seconds of a run by kind of process."""
    found = dict.fromkeys((*KINDS, OTHERS), 0.0)
    for title, seconds in cost.by_title.items():
        found[kind_of(title) or OTHERS] += seconds
    return found


def rest(whole: Cost, short: Cost, count: int) -> tuple[float, float]:
    """Wall and CPU seconds for each of the `count` images beyond the short archive."""
    cpu = (whole.cpu_seconds - short.cpu_seconds) / count
    # At least the CPU time spread over all cores: some of the work may overlap the start-up.
    return max((whole.seconds - short.seconds) / count, cpu / CORES), cpu


def limit_apart(bound: Bound, detector: Path, images: int, at_once: int = 1) -> list[float]:
    """Seconds of an image in `at_once` new processes, their mean; by part for `decode`."""
    job = [sys.executable, __file__, bound, "--images", str(images), "--limit-of", str(detector)]

    def one(env: dict[str, str]) -> list[float]:
        found = subprocess.run(job, env=env, check=True, capture_output=True, text=True)
        return [float(seconds) for seconds in found.stdout.splitlines()[-1].split()]

    def mean(env: dict[str, str]) -> list[float]:
        with ThreadPoolExecutor(at_once) as pool:
            return np.mean(list(pool.map(one, [env] * at_once)), axis=0).tolist()

    found = mean(os.environ | MODEL_ENVIRONMENT)
    return found if bound is Bound.model else mean(dict(os.environ))[:-1] + found[-1:]


def in_memory(detector: Detector, pixels: np.ndarray, images: int) -> float:
    """Seconds of an image: pixels in memory, batches of `BATCH`, on the GPU or on all cores."""
    torch.set_num_threads(CORES)
    detector.score_pixels(pixels)
    batches = max(1, images // len(pixels))
    begin = time.perf_counter()
    for _ in range(batches):
        detector.score_pixels(pixels)
    return (time.perf_counter() - begin) / (batches * len(pixels))


def members(archive: str) -> Iterator[bytes]:
    for entry in storage.list_objects(archive):
        with (
            storage.open_read(entry.uri, 4 << 20, entry) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for info in tar:
                member = tar.extractfile(info)
                if member is not None:
                    yield member.read()


def alone(detector: Detector, pixels: np.ndarray, archive: str) -> list[float]:
    """CPU seconds to read, decode and score an image in this process on one core."""
    torch.set_num_threads(1)
    detector.score_pixels(pixels)
    decode(next(members(archive)), detector.spec)
    taken, count, batch = [0.0] * len(PARTS), 0, []
    clock = time.process_time()

    def spent(part: int) -> None:
        nonlocal clock
        now = time.process_time()
        taken[part] += now - clock
        clock = now

    for content in chain(members(archive), [None]):
        spent(0)
        if content is not None:
            batch.append(decode(content, detector.spec))
            spent(1)
        if len(batch) == BATCH or (batch and content is None):
            detector.score_pixels(np.stack(batch))
            spent(2)
            count, batch = count + len(batch), []
    return [seconds / count for seconds in taken]


def measure(bound: Bound, inputs: Inputs, images: int, options: list[str]) -> Turn:
    """One turn; `images` are those of the archive, `options` those of the job."""
    short, few = score(inputs.detector, SHORT, options)
    whole, all_ = score(inputs.detector, ARCHIVE, options)
    further = images - inputs.short_images
    seconds, cpu = rest(whole, short, further)
    before, after = by_process(short), by_process(whole)
    limit = limit_apart(bound, inputs.detector, inputs.images)
    decodes = bound is Bound.decode
    return Turn(
        ours=cpu if decodes else seconds,
        limit=limit,
        crowded=sum(
            limit_apart(bound, inputs.detector, inputs.images, CORES) if decodes else limit
        ),
        start=whole.seconds - images * seconds,
        planned=planned(few, images, inputs.shards) / all_["seconds"],
        processes={kind: (after[kind] - before[kind]) / further for kind in after},
        others=max(cost.others_seconds / cost.seconds / CORES for cost in (short, whole)),
        busy=Pace.of_run(all_).model_dump(),
    )


def report(bound: Bound, turns: list[Turn]) -> None:
    """Print medians with their range."""
    ours = ranged([bound.shown(turn.ours) for turn in turns])
    limit = ranged([bound.shown(sum(turn.limit)) for turn in turns])
    print(f"scoring run        {ours} {bound.unit}")
    print(f"limit              {limit} {bound.unit}")
    print(f"ratio              {ranged([bound.ratio(t.ours, sum(t.limit)) for t in turns], 3)}")
    if bound is Bound.decode:
        crowded = ranged([bound.shown(turn.crowded) for turn in turns])
        print(f"limit on each core {crowded} {bound.unit}")
        print(f"ratio to that      {ranged([bound.ratio(t.ours, t.crowded) for t in turns], 3)}")
    print(f"start-up and end   {ranged([turn.start for turn in turns], 1)} s")
    print(f"planned / measured {ranged([turn.planned for turn in turns])}")
    spent = {kind: ranged([1000 * t.processes[kind] for t in turns]) for kind in (*KINDS, OTHERS)}
    shown = ", ".join(f"{kind} {ms}" for kind, ms in spent.items())
    print(f"CPU by process     {shown} ms for each further image")
    most = max(turn.others for turn in turns)
    print(f"other processes    up to {most:.0%} of the cores, including the S3 server")
    last = turns[-1]
    parts = zip(PARTS[-len(last.limit) :], last.limit, strict=True)
    shown = ", ".join(f"{name} {1000 * seconds:.3g}" for name, seconds in parts)
    print(f"limit, last turn   {shown} ms an image")
    shown = ", ".join(f"{name} {1000 * last.busy[name]:.3g}" for name in (*PARTS, "driver"))
    print(f"busy, last turn    {shown} ms an image; {1000 * last.busy['commit']:.3g} ms a unit")


def main(
    bound: Annotated[Bound, typer.Argument(help="The part of the job that is the limit.")],
    images: Annotated[int, typer.Option(help="Images in the shards, a multiple of 20.")] = 5000,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
    kind: Annotated[str, typer.Option("--format", help="Of the images: jpg or png.")] = "jpg",
    copies: Annotated[int, typer.Option(help="How often each shard is in the archive.", min=1)] = 1,
    model: Annotated[str, typer.Option(help="open_clip model (with `model`).")] = "ViT-B-32",
    side: Annotated[int, typer.Option(help="Pixels of an image's side (with `model`).")] = 256,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the job, like --option=--detectors=2; repeatable."),
    ] = None,
    limit_of: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Compare the speed of a scoring run with the limit of this machine; print rates and ratios."""
    if limit_of is not None:
        detector = Detector.load(str(limit_of), None if bound is Bound.model else "cpu")
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 255, (BATCH, *detector.spec.size, 3), np.uint8)
        if bound is Bound.model:
            on_gpu = detector.backbone.device.type == "cuda"
            print(in_memory(detector, pixels, images if on_gpu else min(images, 1024)))
        else:
            print(*alone(detector, pixels, SHORT))
        return
    if bound is Bound.decode:
        model, side = PHANTOM, 1024
    inputs = make_inputs(PLACE / "inputs", model, images, side, kind)
    turns: list[Turn] = []
    total = copies * images
    with local_s3("limit"):
        for number, path in enumerate(inputs.shards):
            content = path.read_bytes()
            if number < SHORT_SHARDS:
                storage.write_bytes(storage.join(SHORT, path.name), content)
            for copy in range(copies):
                storage.write_bytes(storage.join(ARCHIVE, f"{copy}-{path.name}"), content)
        for number in range(repeats):
            turns.append(measure(bound, inputs, total, option or []))
            ours, limit = bound.shown(turns[-1].ours), bound.shown(sum(turns[-1].limit))
            print(f"  turn {number + 1}: {ours:.2f} against {limit:.2f}", flush=True)
    print(f"{total} images ({kind}, {side} x {side}), {model}, {CORES} cores")
    report(bound, turns)


if __name__ == "__main__":
    typer.run(main)
