"""Peak memory of 16 seeds on a tower whose head reads all tokens, with the budget and without.

    python benchmarks/seed_memory.py                           # 4 images, eight runs, minutes
    python benchmarks/seed_memory.py --images 64 --only-with

The tower has the shape of ViT-SO400M-14-SigLIP-384 (729 tokens, width 1152) with its last two
blocks only, random weights and a small text tower. Each run is a process of its own: the peak of
its resident memory less what it had before. `scoring` is one batch of images for all seeds,
`fitting` a whole fit of one step with as many images of each seed; all seeds have the same two
images, so that the step takes the memory and not the encoding. Without the budget, all seeds are
computed at once. The arithmetic for a batch of 64 images stands above the table.
"""

import json
import os
import resource
import subprocess
import sys
from functools import partial
from typing import Annotated, Literal
from unittest import mock

import numpy as np
import timm
import torch
import typer
from open_clip.model import CustomTextCLIP

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, wrap
from sdmad.backbones.towers import Activations
from sdmad.inputs.catalog import parse_catalog
from sdmad.method import memory
from sdmad.method.adapter import AdapterConfig, TowerAdapterConfig
from sdmad.method.augment import AugmentConfig, SupportImages
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.model import SignModel

TOWER, TOKENS, WIDTH, SIDE = "vit_so400m_patch14_siglip_384", 729, 1152, 384
BATCH = 64
TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 4, "layers": 2}
CATALOG = {
    "name": "noise",
    "modality": "noise",
    "signs": {name: {"prompts": [name]} for name in ("round", "flat", "even")},
    "categories": {"one": {"signs": ["round", "flat"]}},
    "normal": {"signs": ["even"]},
}
What = Literal["scoring", "fitting"]


def siglip() -> Backbone:
    """The last two blocks and the head of the tower, random weights."""
    torch.manual_seed(0)
    vision = {"timm_model_name": TOWER, "timm_pool": "map", "timm_proj": "none", "image_size": SIDE}
    with mock.patch.object(timm, "create_model", partial(timm.create_model, depth=2)):
        clip = CustomTextCLIP(WIDTH, vision, TEXT)
    return wrap(clip, lambda texts: torch.ones(len(texts), 16).long(), BackboneConfig(), "cpu")


def peak(what: What, seeds: int, images: int, blocks: int) -> float:
    """MiB that one run takes beside what the process had before it."""
    backbone, catalog = siglip(), parse_catalog(CATALOG, "noise")
    adapter = AdapterConfig(image=TowerAdapterConfig(blocks=blocks))
    if what == "scoring":
        model = SignModel(backbone, catalog, adapter, seeds)
        for seed in range(seeds):
            model.image_adapters.initialise(seed, torch.Generator().manual_seed(seed))
        tokens = torch.randn(images, TOKENS, WIDTH)
        activations = Activations(tokens, tokens.clone(), ((), {}))
        before = resident()
        with torch.inference_mode():
            model.image_embeddings(activations)
    else:
        config = LearnerConfig(
            steps=1,
            images_per_class=images // 2,
            augment=AugmentConfig(views=2),
            adapter=adapter,
        )
        pixels = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3), np.uint8)
        labels = np.array([[0], [1]])
        supports = [SupportImages(1, s, ["plain", "one"], pixels, labels) for s in range(seeds)]
        before = resident()
        fit_batch(backbone, catalog, supports, config)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def resident() -> int:
    """KiB of this process in memory."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024


def in_a_process(what: What, seeds: int, images: int, blocks: int, budget: bool) -> float:
    settings = json.dumps([what, seeds, images, blocks, budget])
    command = [sys.executable, __file__, "--run", settings]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def arithmetic(seeds: int) -> list[str]:
    tensor = seeds * BATCH * TOKENS * WIDTH * 4
    none = torch.empty(0, TOKENS, WIDTH)
    lines = [
        f"{seeds} seeds x {BATCH} images x {TOKENS} tokens x {WIDTH} x 4 bytes: "
        f"{tensor / 1e9:.2f} GB a tensor"
    ]
    for blocks in (1, 2):
        row = memory.row_bytes(Activations(none, none), blocks, training=False)
        room = memory.TOKENS_AT_ONCE // row
        budget, whole = memory.TOKENS_AT_ONCE / 2**20, seeds * BATCH * row / 2**30
        lines.append(
            f"{blocks} adapted: {row / 2**20:.0f} MiB a row at most, {room} rows in {budget:.0f} "
            f"MiB, {whole:.0f} GiB for all"
        )
    return lines


def main(
    seeds: Annotated[int, typer.Option(help="seeds at once")] = 16,
    images: Annotated[int, typer.Option(help="images of a batch, or of a seed in a step")] = 4,
    only_with: Annotated[bool, typer.Option(help="leave out the runs without the budget")] = False,
    run: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    if run:
        what, seeds, images, blocks, budget = json.loads(run)
        if not budget:
            memory.TOKENS_AT_ONCE = memory.CACHE = 1 << 60
        print(peak(what, seeds, images, blocks))
        return
    print(*arithmetic(seeds), sep="\n")
    print(f"\n{seeds} seeds, {images} images: peak in MiB")
    print(f"{'':24}{'without':>10}{'with':>10}{'ratio':>8}")
    kinds: tuple[What, What] = ("scoring", "fitting")
    for what in kinds:
        for blocks in (1, 2):
            within = in_a_process(what, seeds, images, blocks, budget=True)
            row = f"{what}, {blocks} adapted{'':24}"[:24]
            if only_with:
                print(f"{row}{'':>10}{within:>10.0f}", flush=True)
                continue
            without = in_a_process(what, seeds, images, blocks, budget=False)
            print(f"{row}{without:>10.0f}{within:>10.0f}{without / within:>8.1f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
