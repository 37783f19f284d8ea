"""Why the threads of a detector sleep while they wait for each other.

    python benchmarks/thread_waits.py

A detector with the embedded backbone scores pixels in memory on all cores, in processes that differ
in OMP_WAIT_POLICY only. Where it is not set, as PyTorch finds it, GNU OpenMP's threads spin at the
end of each operation, up to milliseconds, until the last of them is there; `passive` ones sleep.
First by itself, then beside a process that keeps a core busy, as the readers of a run do:
milliseconds of an image, wall clock and CPU time of the detector's process, and their ratio, turn
by turn.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from peers.figures import ranged
from peers.inputs import NUM_SHARDS, make_inputs

from sdmad.backbone import PHANTOM
from sdmad.detector import Detector
from sdmad.scoring.pipeline import DETECTOR_ENVIRONMENT

BATCH, BATCHES = 64, 16
POLICIES = (None, "passive")
CORES = os.cpu_count() or 1


@contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    """A process that computes without end meanwhile."""
    command = [sys.executable, "-c", "while True: pass" if wanted else ""]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def measure(detector: Path, policy: str | None) -> tuple[float, float]:
    """Wall and CPU milliseconds of an image in a new process."""
    command = [sys.executable, __file__, "--detector", str(detector)]
    env = os.environ | DETECTOR_ENVIRONMENT
    del env["OMP_WAIT_POLICY"]
    if policy:
        env["OMP_WAIT_POLICY"] = policy
    found = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    wall, cpu = found.stdout.splitlines()[-1].split()
    return float(wall), float(cpu)


def score(uri: Path) -> tuple[float, float]:
    """Wall and CPU milliseconds of an image in this process, after the first batch."""
    torch.set_num_threads(CORES)
    detector = Detector.load(str(uri), "cpu")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (BATCH, *detector.spec.size, 3), np.uint8)
    detector.score_pixels(pixels)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        detector.score_pixels(pixels)
    each = 1000 / (BATCH * BATCHES)
    return each * (time.perf_counter() - wall), each * (time.process_time() - cpu)


def main(
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
    detector: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print times and ratios."""
    if detector is not None:
        print(*score(detector))
        return
    found: defaultdict[tuple[bool, str | None], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        fits = make_inputs(Path(place), PHANTOM, NUM_SHARDS, 64, "jpg").detector
        for _ in range(repeats):
            for beside in (False, True):
                for policy in POLICIES:
                    with busy_core(beside):
                        found[beside, policy].append(measure(fits, policy))
    print(f"{PHANTOM}, {CORES} threads, batches of {BATCH}, {repeats} turns")
    for beside in (False, True):
        print("beside a busy process" if beside else "by itself")
        for part, name in enumerate(("wall", "CPU")):
            spun, slept = ([pair[part] for pair in found[beside, policy]] for policy in POLICIES)
            ratio = ranged([a / b for a, b in zip(spun, slept, strict=True)])
            print(f"  {name:<5} spinning {ranged(spun)}, sleeping {ranged(slept)} ms; {ratio} x")


if __name__ == "__main__":
    typer.run(main)
