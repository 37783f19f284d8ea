"""Starts a peer in its own environment and reads its figures.

    result = run_peer("daft", "s3://bucket/shards", checkpoint, prompts, output, threads=2)
    embeddings = load_embeddings("daft", result.output)

Endpoint and credentials of the shards are those of this process's environment.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peers.make_environments import HERE, PEERS, environment, is_ready
from peers.outputs import difference, load_embeddings

__all__ = ["PEERS", "PeerResult", "difference", "load_embeddings", "run_peer"]


@dataclass(frozen=True)
class PeerResult:
    """`seconds` is the steady part, from the first read to the last output; `startup_seconds` is
    what came before: imports and the model."""

    images: int
    seconds: float
    startup_seconds: float
    output: Path


def run_peer(
    name: str,
    shards: str,
    checkpoint: Path,
    prompts: Path,
    output: Path,
    threads: int,
    *,
    model: str = "ViT-B-32",
    batch: int = 32,
    timeout: float = 3600,
) -> PeerResult:
    """Run one peer over all tar shards under the prefix `shards`; replaces `output`.

    Raises `FileNotFoundError` without its environment, `RuntimeError` when it fails and
    `subprocess.TimeoutExpired` when it takes longer than `timeout` seconds.
    """
    if not is_ready(name):
        raise FileNotFoundError(
            f"the peer {name} has no environment, or one of other requirements; make it: "
            f"python benchmarks/peers/make_environments.py {name}"
        )
    shutil.rmtree(output, ignore_errors=True)
    values = {
        "shards": shards,
        "model": model,
        "checkpoint": checkpoint.absolute(),
        "prompts": prompts.absolute(),
        "output": output.absolute(),
        "batch": batch,
        "threads": threads,
    }
    arguments = [str(part) for key, value in values.items() for part in (f"--{key}", value)]
    own = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [str(environment(name) / "bin" / "python"), str(HERE / name / "score.py"), *arguments],
        env=own,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"the peer {name} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return PeerResult(**json.loads(done.stdout.splitlines()[-1]), output=output)
