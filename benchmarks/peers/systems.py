"""Run sdmad or a peer on an archive in a new process, and measure time and CPU.

    cost = run_system("daft", Settings(batch=32, threads=2, workers=0), inputs, archive, output)

S3 endpoint and credentials come from the environment of this process.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from inputs import Inputs
from make_environments import HERE, environment
from processes import Cost, run_measured

ROOT = HERE.parents[1]
TIMEOUT = 2 * 3600.0


@dataclass(frozen=True)
class Settings:
    """Settings of a peer: images in a batch, PyTorch's threads, reading processes."""

    batch: int
    threads: int
    workers: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} threads, {self.workers} workers"


def run_system(
    system: str, settings: Settings | None, inputs: Inputs, archive: str, output: Path
) -> Cost:
    """Score the shards under the prefix `archive` into `output`, which is replaced.

    `settings` is None for sdmad, which runs at its defaults. Raises `RuntimeError` when a system
    fails or exceeds `TIMEOUT`.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    log = output.with_name(f"{output.name}.log")
    # sdmad chooses its own number of threads, and must not connect to a cluster.
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "RAY_ADDRESS")}
    if settings is None:
        command = _sdmad(inputs, archive, output)
    else:
        command = _peer(system, settings, inputs, archive, output)
        env |= {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": str(settings.threads)}
    try:
        return run_measured(command, env, ROOT, log, TIMEOUT)
    except subprocess.SubprocessError as error:
        said = log.read_text(errors="replace")[-4000:]
        raise RuntimeError(f"{system}: {error}; the end of {log}:\n{said}") from None


def _sdmad(inputs: Inputs, archive: str, output: Path) -> list[str]:
    job = [sys.executable, str(ROOT / "jobs" / "score_archive.py")]
    return job + _options(archive=archive, detector=inputs.detector, output=output)


def _peer(system: str, settings: Settings, inputs: Inputs, archive: str, output: Path) -> list[str]:
    job = [str(environment(system) / "bin" / "python"), str(HERE / system / "score.py")]
    return job + _options(
        shards=archive,
        model=inputs.model,
        checkpoint=inputs.checkpoint,
        prompts=inputs.prompts,
        output=output,
        batch=settings.batch,
        threads=settings.threads,
        workers=settings.workers,
    )


def _options(**values: object) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
