"""Whether a ten times larger archive takes ten times the time, and the same memory.

    python benchmarks/growth.py

Scores phantoms in tar shards on local disk with the embedded backbone, an archive and one of ten
times its shards, and watches every process of the job. Time is that from the first scores to the
end, so that start-up does not count. The object store is shared memory and stands apart: each
process is charged with what is its own (PSS without shared memory is not to be had cheaply, so
resident memory less shared).
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from sdmad import storage
from sdmad.config import TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.learner import LearnerConfig
from sdmad.phantoms.task import write_archive

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runs" / "growth"
KINDS = {"score_archive.py": "driver", "DetectorActor": "detector", "read_and_decode": "reader"}
SAMPLE_SECONDS = 0.25


def make_archives(images: int, times: int) -> tuple[Path, Path]:
    """An archive of `images`, and one with each of its shards `times` times over."""
    small, large = PLACE / f"{images}", PLACE / f"{images}x{times}"
    if not large.exists():
        write_archive(str(small), pool=200, test=images - 200)
        scratch = PLACE / "part"
        scratch.mkdir(parents=True, exist_ok=True)
        for shard in sorted(small.glob("*.tar")):
            for k in range(times):
                shutil.copy(shard, scratch / f"{shard.stem}-{k:03d}.tar")
        scratch.rename(large)
    return small, large


def watched(archive: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The run.json of a run, and the peak MiB of each kind of process."""
    output = PLACE / "scores"
    shutil.rmtree(output, ignore_errors=True)
    job = [sys.executable, "jobs/score_archive.py", "--archive", str(archive)]
    job += ["--detector", str(PLACE / "train"), "--output", str(output)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    peaks: defaultdict[str, float] = defaultdict(float)
    with (PLACE / "score.log").open("wb") as log:
        process = subprocess.Popen(job, cwd=ROOT, env=env, stdout=log, stderr=log)
        while process.poll() is None:
            _sample(process.pid, peaks)
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        sys.exit(f"the job failed; see {PLACE / 'score.log'}")
    record: dict[str, Any] = json.loads(storage.read_bytes(str(output / "run.json")))
    return record, dict(peaks)


def seconds(record: dict[str, Any]) -> float:
    return float(record["seconds"] - record["seconds_to_first_scores"])


def _sample(driver: int, peaks: dict[str, float]) -> None:
    for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
        command = " ".join(process.info["cmdline"] or [])
        kind = next((kind for mark, kind in KINDS.items() if mark in command), None)
        if kind == "driver" and process.info["pid"] != driver:
            continue
        memory = process.info["memory_info"]
        if kind and memory:
            peaks[kind] = max(peaks[kind], (memory.rss - memory.shared) / 2**20)


def main(
    images: Annotated[int, typer.Option(help="Images of the smaller archive.")] = 4000,
    times: Annotated[int, typer.Option(help="How much larger the other one is.")] = 10,
    repeats: Annotated[int, typer.Option(help="Repetitions.")] = 3,
) -> None:
    """Print the ratios of time and memory, medians with their range."""
    small, large = make_archives(images, times)
    if not (PLACE / "train").exists():
        config = TrainConfig(
            archive=str(small),
            labels=str(small / "labels.csv"),
            catalog="phantoms",
            learner=LearnerConfig(steps=10),
            shots=[2],
            seeds="0:2",
        )
        train_seeds(config, str(PLACE / "train"))
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    shown: defaultdict[str, list[str]] = defaultdict(list)
    driver: list[float] = []
    for _ in range(repeats):
        (first, few_peaks), (second, many_peaks) = watched(small), watched(large)
        few, many = seconds(first), seconds(second)
        ratios["time"].append(many / few)
        shown["time"].append(f"{few:.1f} s, {many:.1f} s")
        more = second["driver_cpu_seconds"] - first["driver_cpu_seconds"]
        driver.append(1000 * more / (images * (times - 1)))
        for kind, peak in few_peaks.items():
            ratios[kind].append(many_peaks[kind] / peak)
            shown[kind].append(f"{peak:.0f} MiB, {many_peaks[kind]:.0f} MiB")
    print(f"{images} images against {times * images}")
    for name, values in ratios.items():
        middle = statistics.median(values)
        what = name if name == "time" else f"peak memory of a {name}"
        nearest = min(range(len(values)), key=lambda k: abs(values[k] - middle))
        print(
            f"{what:28s} {middle:6.2f} x ({min(values):.2f} to {max(values):.2f}), "
            f"as {shown[name][nearest]}"
        )
    print(
        f"CPU of the driver for each further image: {statistics.median(driver):.2f} ms "
        f"({min(driver):.2f} to {max(driver):.2f})"
    )


if __name__ == "__main__":
    typer.run(main)
