"""Time from the command to the first scored image, by part.

    python benchmarks/startup.py

Scores a small phantom archive with an eight-seed detector of the embedded backbone. Each part is
measured in a new process; the whole is a run of jobs/score_archive.py. Prints seconds, medians with
their range.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import ray
import typer

from sdmad.fitting.config import TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.method.learner import LearnerConfig
from sdmad.phantoms.task import write_archive

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runs" / "startup"
PARTS = {
    "Python and the job's imports": "import typer, sdmad.runtime.cli, sdmad.scoring.images",
    "of these, PyTorch": "import torch",
    "of these, open_clip": "import torch; T = time.perf_counter(); import open_clip",
    "of these, Ray Data": "import ray; T = time.perf_counter(); import ray.data",
    "a local Ray": "from sdmad.runtime.cluster import connect; T = time.perf_counter(); connect()",
    "the detector": (
        "from sdmad.detector import Detector; T = time.perf_counter(); "
        "Detector.load({train!r}, 'cpu')"
    ),
    "the plan": (
        "from sdmad.archive.listing import list_archive; "
        "from sdmad.archive.units import cut_units; T = time.perf_counter(); "
        "list(cut_units({archive!r}, list_archive({archive!r})))"
    ),
}


def part(code: str) -> float:
    """Seconds that `code` takes in a new process, from its last assignment to `T` on."""
    program = (
        f"import time; T = time.perf_counter(); {code}; print('seconds', time.perf_counter() - T)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return float(found.stdout.split("seconds ")[-1])


def whole(archive: Path, train: Path) -> dict[str, float]:
    """Run the job; seconds of its phases, from `run.json` and from outside."""
    record = PLACE / "scores" / "run.json"
    shutil.rmtree(PLACE / "scores", ignore_errors=True)
    job = [sys.executable, "jobs/score_archive.py", "--archive", str(archive)]
    job += ["--detector", str(train), "--output", str(PLACE / "scores")]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    begin = time.perf_counter()
    with (PLACE / "score.log").open("wb") as log:
        process = subprocess.Popen(job, cwd=ROOT, env=env, stdout=log, stderr=log)
        while process.poll() is None and not record.exists():
            time.sleep(0.02)
        planned = time.perf_counter() - begin
        if process.wait():
            sys.exit(f"the job failed; see {PLACE / 'score.log'}")
    seconds = time.perf_counter() - begin
    found = json.loads(record.read_text())
    first, streamed = found["seconds_to_first_scores"], found["seconds"]
    return {
        "command to the start of Ray": planned,
        "Ray, actors, to the first scores": first,
        "command to the first scores": planned + first,
        "the rest of the archive": streamed - first,
        "shutdown of Ray": seconds - planned - streamed,
    }


def line(name: str, values: list[float]) -> None:
    low, high = min(values), max(values)
    print(f"{name:36s} {statistics.median(values):6.2f} s  ({low:.2f} to {high:.2f})", flush=True)


def main(
    images: Annotated[int, typer.Option(help="Images of the archive.")] = 400,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
) -> None:
    """Time the parts of a start, then the whole job."""
    archive, train = PLACE / f"{images}", PLACE / f"{images}-train"
    if not train.exists():
        labels = write_archive(str(archive), pool=200, test=images - 200)
        config = TrainConfig(
            archive=str(archive),
            labels=labels,
            catalog="phantoms",
            learner=LearnerConfig(steps=10),
            shots=[2],
        )
        train_seeds(config, str(train))
        ray.shutdown()  # Its processes would compete for the cores.
    for name, code in PARTS.items():
        filled = code.format(train=str(train), archive=str(archive))
        line(name, [part(filled) for _ in range(repeats)])
    runs = [whole(archive, train) for _ in range(repeats)]
    for name in runs[0]:
        line(name, [run[name] for run in runs])


if __name__ == "__main__":
    typer.run(main)
