"""Growth of time and memory with the archive: ten times the images.

    python benchmarks/growth.py

Scores phantoms in tar shards on local disk with the embedded backbone: an archive, one with twice
and one with eleven times its shards. The time that the second and the third need beyond the first
is compared: CPU seconds of all processes, and seconds from the first scores to the end. The
expected ratio is 10. Readers finish a small archive while the detector still starts, so reading is
in the CPU seconds of all three archives but only in the wall clock of the largest.

Memory of a process is its resident memory less its shared memory; Ray's object store, which is
shared memory, does not count.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import ray
import typer
from job_processes import KINDS, kind_of
from peers.processes import run_measured
from peers.ranges import ranged

from sdmad import storage
from sdmad.fitting.config import TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.method.learner import LearnerConfig
from sdmad.phantoms.task import write_archive

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runs" / "growth"
SAMPLE_SECONDS = 0.25
TIMEOUT = 3 * 3600.0


def make_archives(original: Path, images: int, sizes: Iterable[int]) -> list[Path]:
    """Archives with `sizes` copies of each shard of `original`, which is made if missing."""
    if not original.exists():
        write_archive(str(original), pool=200, test=images - 200)
    archives = []
    for size in sizes:
        archives.append(original.with_name(f"{original.name}x{size}"))
        if archives[-1].exists():
            continue
        scratch = PLACE / "part"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for shard in sorted(original.glob("*.tar")):
            for k in range(size):
                os.link(shard, scratch / f"{shard.stem}-{k:03d}.tar")
        scratch.rename(archives[-1])
    return archives


def watched(archive: Path, detector: Path) -> tuple[dict[str, Any], float, dict[str, float]]:
    """The run.json of a run, its CPU seconds, and the peak MiB of each kind of process."""
    output = PLACE / "scores"
    shutil.rmtree(output, ignore_errors=True)
    job = [sys.executable, "jobs/score_archive.py", "--archive", str(archive)]
    job += ["--detector", str(detector), "--output", str(output)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    log = PLACE / "score.log"
    with memory() as peaks:
        try:
            cost = run_measured(job, env, ROOT, log, TIMEOUT)
        except subprocess.SubprocessError:
            sys.exit(f"the job failed; see {log}")
    if peaks.keys() != set(KINDS):
        sys.exit(f"not all processes of the job were seen, only: {', '.join(peaks)}")
    record: dict[str, Any] = json.loads(storage.read_bytes(str(output / "run.json")))
    return record, cost.cpu_seconds, peaks


@contextmanager
def memory() -> Iterator[dict[str, float]]:
    """Peak MiB of each kind of descendant process while the block runs."""
    peaks: defaultdict[str, float] = defaultdict(float)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            _sample(peaks)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def seconds(record: dict[str, Any]) -> float:
    return float(record["seconds"] - record["seconds_to_first_scores"])


def _sample(peaks: dict[str, float]) -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            command = " ".join(process.cmdline())
            kind = kind_of(command)
            memory = process.memory_info()
            if kind:
                peaks[kind] = max(peaks[kind], (memory.rss - memory.shared) / 2**20)


def main(
    images: Annotated[int, typer.Option(help="Images of the smallest archive.")] = 10000,
    times: Annotated[int, typer.Option(help="How many times as many further images.")] = 10,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
) -> None:
    """Score archives of growing size; print ratios of time and memory, medians with range."""
    original = PLACE / f"{images}"
    archives = make_archives(original, images, (1, 2, 1 + times))
    config = TrainConfig(
        archive=str(original),
        labels=str(original / "labels.csv"),
        catalog="phantoms",
        learner=LearnerConfig(steps=10),
        shots=[2],
        seeds="0:2",
    )
    train = original.with_name(f"{original.name}-train")
    train_seeds(config, str(train))
    ray.shutdown()  # Its processes would compete for the cores.
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    driver: list[float] = []
    watched(archives[0], train)  # Not counted: the first run reads from disk.
    for turn in range(repeats):
        runs = [watched(archive, train) for archive in archives]
        shown = []
        for name, of in (("time", lambda run: seconds(run[0])), ("CPU", lambda run: run[1])):
            base, near, far = map(of, runs)
            ratios[name].append((far - base) / (near - base))
            shown.append(f"{name} {base:.1f}, {near - base:.1f} and {far - base:.1f} s")
        print(
            f"  turn {turn + 1}: {images} images, {images} further ones, {times * images} further "
            f"ones: {'; '.join(shown)}",
            flush=True,
        )
        (first, _, few), (last, _, many) = runs[0], runs[-1]
        more = last["driver_cpu_seconds"] - first["driver_cpu_seconds"]
        driver.append(1000 * more / (images * times))
        for kind, peak in few.items():
            ratios[f"peak memory of a {kind}"].append(many[kind] / peak)
        peaks = ", ".join(f"{kind} {peak:.0f} and {many[kind]:.0f}" for kind, peak in few.items())
        print(f"    peak MiB with {images} and with {(1 + times) * images} images: {peaks}")
    print(f"{times * images} further images against {images}, beyond the first {images}")
    for name, values in ratios.items():
        print(f"{name:26s} {ranged(values)} x")
    print(f"CPU of the driver          {ranged(driver)} ms for each further image")


if __name__ == "__main__":
    typer.run(main)
