"""CPU time of an image where large freed buffers stay with the process, and where they do not.

    python benchmarks/freed_buffers.py

Two image towers with random weights, batches of 16 and 64 images, in processes of their own that
take turns: with the environment of detectors, fits and comparisons
(`sdmad.runtime.cluster.MODEL_ENVIRONMENT`), and without its part for memory. Prints milliseconds of
all cores an image.
"""

import os
import subprocess
import sys
import time
from statistics import median
from typing import Annotated

import timm
import torch
import typer
from peers.ranges import ranged

import sdmad.backbones.lite  # noqa: F401 - registers the architecture
from sdmad.runtime.cluster import BUFFERS_STAY, MODEL_ENVIRONMENT

TOWERS = {"sdmad_lite_vit": 256, "vit_base_patch32_224": 224}
BATCHES = (16, 64)
IMAGES = 128


@torch.inference_mode()
def encode(name: str, batch: int) -> float:
    """CPU milliseconds an image, after one batch."""
    torch.manual_seed(0)
    tower = timm.create_model(name, num_classes=0).eval()
    images = torch.randn(batch, 3, TOWERS[name], TOWERS[name])
    tower(images)
    begin = time.process_time()
    for _ in range(IMAGES // batch):
        tower(images)
    return (time.process_time() - begin) / IMAGES * 1000


def measure(name: str, batch: int, environment: dict[str, str]) -> float:
    kept = {key: value for key, value in os.environ.items() if key not in MODEL_ENVIRONMENT}
    command = [sys.executable, __file__, "--tower", name, "--batch", str(batch)]
    done = subprocess.run(command, env=kept | environment, check=True, capture_output=True)
    return float(done.stdout)


def main(
    repeats: Annotated[int, typer.Option(help="Turns.", min=1)] = 3,
    tower: Annotated[str, typer.Option(hidden=True)] = "",
    batch: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Print the CPU time of an image with and without, and their ratio."""
    if tower:
        print(encode(tower, batch))
        return
    returned = {k: v for k, v in MODEL_ENVIRONMENT.items() if k not in BUFFERS_STAY}
    for name in TOWERS:
        for size in BATCHES:
            turns = [
                (measure(name, size, MODEL_ENVIRONMENT), measure(name, size, returned))
                for _ in range(repeats)
            ]
            stay, back = zip(*turns, strict=True)
            ratio = ranged([b / s for s, b in turns])
            print(
                f"{name}, batches of {size}: {median(stay):.1f} ms where buffers stay, "
                f"{median(back):.1f} ms where they are returned, ratio {ratio}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
