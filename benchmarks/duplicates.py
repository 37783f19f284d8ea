"""CPU time and memory of `sdmad similar --duplicates-above`, and what a large archive would take.

    python benchmarks/duplicates.py

Activations of ViT-B/32's shape with random numbers, of so many images and of twice as many, on one
core. Every pair of images is compared, so twice the images take four times the time. Prints pairs a
second and, computed from them, the time of larger archives.
"""

import os
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer
from peers.inputs import random_checkpoint

from sdmad.activations import Layout, Stored, to_arrow
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.scoring import similar, tables
from sdmad.scoring.similar import Search
from sdmad.words import duration

UNIT = 1000
LARGER = (10**5, 10**6, 10**7)


def write(output: str, layout: Layout, images: int) -> list[str]:
    """Activations of random numbers; the ids of their units."""
    rng = np.random.default_rng(0)
    units = []
    for start in range(0, images, UNIT):
        columns = {
            name: rng.standard_normal((UNIT, n), np.float32).astype(np.float16)
            for name, n in layout.lengths.items()
        }
        names = [f"images/{start + k:08d}.png" for k in range(UNIT)]
        text = {"uri": names, "archive": [""] * UNIT, "member": names}
        arrays = to_arrow(columns | {"scale": np.ones(UNIT, np.float32)})
        table = pa.table(text | arrays).select(layout.schema.names).cast(layout.schema)
        units.append(f"{start:016x}")
        empty = tables.empty_failures()
        tables.commit_unit(output, units[-1], table, empty, {}, tables.ACTIVATIONS)
    return units


def search(backbone: Backbone, output: str, images: int) -> Search:
    layout = Layout.of(backbone)
    stored = Stored("images", backbone.config, backbone.identity, backbone.spec, layout)
    return Search(output, stored, write(output, layout, images), backbone)


def main(
    model: Annotated[str, typer.Option(help="open_clip model.")] = "ViT-B-32",
    images: Annotated[int, typer.Option(help="Images of the smaller activations.")] = 20_000,
) -> None:
    """Compare all pairs of images; print pairs a second, memory and what larger archives take."""
    torch.set_num_threads(1)
    pace = 0.0
    with TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), model)
        backbone = load_backbone(BackboneConfig(model=model, pretrained=str(checkpoint)), "cpu")
        for count in (images, 2 * images):
            found = search(backbone, f"{folder}/{count}", count)
            begin = time.process_time()
            list(found._all())
            reading = time.process_time() - begin
            begin = time.process_time()
            found.duplicates(0.98)
            seconds = time.process_time() - begin
            pairs = count * (count - 1) / 2
            pace = pairs / seconds
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{count:,} images: {seconds:.1f} s of CPU, {pace / 1e6:.0f} million pairs a "
                f"second; reading {1e6 * reading / count:.0f} us an image; peak {peak:,.0f} MiB",
                flush=True,
            )
        for count in LARGER:
            passes = -(-count // similar.BLOCK)
            spent = count * (count - 1) / 2 / pace + passes * reading / (2 * images) * count
            print(f"{count:,} images: {duration(spent)} on one core (computed)")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
