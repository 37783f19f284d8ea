"""Cost of waiting threads: spinning, sleeping, or each scoring a slice of the batch.

    python benchmarks/thread_waits.py

A detector with the embedded backbone scores pixels in memory; then four seeds are fitted to
phantoms in one batch. Both use all cores, in these ways:

- spinning: PyTorch's threads share every operation and spin at its end, up to milliseconds, until
  the last one is done (the default of OpenMP);
- sleeping: the same, but they sleep (OMP_WAIT_POLICY=passive); fits do this;
- slices: each thread scores a slice of the batch and waits only at the end of the batch; detectors
  of a scoring run do this.

Each way is measured by itself, beside a process that keeps one core busy (as readers do), and
beside another process of its kind (as two jobs on one node). Prints wall clock and CPU time of the
process, and their ratio to the way that jobs use.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from peers.inputs import NUM_SHARDS, make_inputs
from peers.ranges import ranged
from seeds_in_one_batch import phantom_supports

from sdmad.backbones.config import PHANTOM, BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.detector import Detector
from sdmad.inputs.catalog import load_catalog
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.runtime.cluster import MODEL_ENVIRONMENT, THREADS_SLEEP
from sdmad.scoring.slices import SlicedDetector

BATCH, BATCHES = 64, 16
SEEDS, SHOTS = 4, 4
CORES = os.cpu_count() or 1


class Work(StrEnum):
    scoring = "scoring"
    fitting = "fitting"

    @property
    def unit(self) -> str:
        return "ms an image" if self is Work.scoring else f"s for {SEEDS} fits"


class Way(StrEnum):
    """How threads share the work."""

    spinning = "spinning"
    sleeping = "sleeping"
    slices = "in slices"


# The last one is what jobs use.
WAYS = {Work.scoring: tuple(Way), Work.fitting: (Way.spinning, Way.sleeping)}


class Beside(StrEnum):
    nothing = "by itself"
    busy = "beside a busy process"
    another = "beside another of its kind"


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def score(uri: Path, way: Way) -> tuple[float, float]:
    """Wall and CPU milliseconds of an image in this process, after the first batch."""
    with ThreadPoolExecutor(1) as loading:  # As in the process of a detector.
        whole = loading.submit(Detector.load, str(uri), "cpu").result()
    detector = SlicedDetector(whole, CORES) if way is Way.slices else whole
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (BATCH, *whole.spec.size, 3), np.uint8)
    detector.score_pixels(pixels)
    wall, cpu = timed(lambda: [detector.score_pixels(pixels) for _ in range(BATCHES)])
    each = 1000 / (BATCH * BATCHES)
    return each * wall, each * cpu


def fit() -> tuple[float, float]:
    """Wall and CPU seconds of a batch of fits in this process, after a short one."""
    backbone, catalog = load_backbone(BackboneConfig(), "cpu"), load_catalog("phantoms")
    supports, config = phantom_supports(SEEDS, SHOTS), LearnerConfig()
    fit_batch(backbone, catalog, supports[:1], config.model_copy(update={"steps": 2}))
    return timed(lambda: fit_batch(backbone, catalog, supports, config))


def measure(work: Work, detector: Path, beside: Beside, way: Way) -> tuple[float, float]:
    """Wall and CPU time of a new process that does the work."""
    command = [sys.executable, __file__, "--work", work, "--way", way, "--detector", str(detector)]
    env = os.environ | MODEL_ENVIRONMENT
    for name in THREADS_SLEEP if way is Way.spinning else ():
        del env[name]
    with _company(command if beside is Beside.another else _busy(beside), env):
        found = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    wall, cpu = found.stdout.splitlines()[-1].split()
    return float(wall), float(cpu)


def _busy(beside: Beside) -> list[str]:
    return [sys.executable, "-c", "while True: pass" if beside is Beside.busy else ""]


@contextmanager
def _company(command: list[str], env: dict[str, str]) -> Iterator[None]:
    """Run a program beside the block."""
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def main(
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
    work: Annotated[Work | None, typer.Option(hidden=True)] = None,
    way: Annotated[Way, typer.Option(hidden=True)] = Way.sleeping,
    detector: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure threads that wait in different ways; print times and ratios."""
    torch.set_num_threads(CORES)
    if work is not None and detector is not None:
        print(*(score(detector, way) if work is Work.scoring else fit()))
        return
    found: defaultdict[tuple[Work, Beside, Way], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        fits = make_inputs(Path(place), PHANTOM, NUM_SHARDS, 64, "jpg").detector
        for _ in range(repeats):
            for each in Work:
                for beside in Beside:
                    for how in WAYS[each]:
                        found[each, beside, how].append(measure(each, fits, beside, how))
    print(f"{PHANTOM}, {CORES} threads, {repeats} turns")
    for each in Work:
        for beside in Beside:
            print(f"{each} {beside}")
            shipped = found[each, beside, WAYS[each][-1]]
            for how in WAYS[each]:
                turns = found[each, beside, how]
                shown = []
                for part, name in enumerate(("wall", "CPU")):
                    times = ranged([turn[part] for turn in turns])
                    ratio = ranged([a[part] / b[part] for a, b in zip(turns, shipped, strict=True)])
                    shown.append(f"{name} {times} {each.unit}, {ratio} x")
                print(f"  {how:<10} {'; '.join(shown)}")


if __name__ == "__main__":
    typer.run(main)
