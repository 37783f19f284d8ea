"""The pointing game on phantoms, whose masks are known: does the map of a sign peak on the sign?

    python benchmarks/pointing_game.py --archives 1,2,3 --seeds 0:4 --shots 4

For each sign in a test phantom, a hit is a map whose maximum lies within `TOLERANCE` pixels of the
sign's mask (Zhang et al., arXiv 1608.00507). Printed beside the hits, per cent:

- chance: the share of the image within that tolerance of the mask;
- centre: hits of always pointing at the centre of the image;
- other image: hits of the map of the same sign in another phantom, which reflects where such signs
  usually are but not this image;
- AUROC of the sign's similarity: a model cannot point at a sign that it does not see.

Means are over focal signs, whose chance is below `FOCAL`. The others (textures, rims, levels) cover
so much of the organ that a hit says little.
"""

from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import roc_auc_score

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.demo.run import zero_shot
from sdmad.fitting.config import parse_numbers
from sdmad.inputs.catalog import load_catalog
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.support import draw_support
from sdmad.localisation import occlusion_maps, upsample
from sdmad.method.augment import SupportImages
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.model import SignModel
from sdmad.phantoms.signs import SIGNS
from sdmad.phantoms.task import CATEGORIES, Example, draw_example

POOL = 600
TOLERANCE = 4.0
FOCAL = 0.2


def pixels_of(examples: list[Example]) -> np.ndarray:
    """Pixels (N, 64, 64, 3) uint8."""
    return np.stack([np.repeat(e.image[..., None], 3, axis=2) for e in examples])


def fitted(
    backbone: Backbone, config: LearnerConfig, archive: int, shots: int, seeds: list[int]
) -> SignModel:
    """The model of all seeds, fitted to supports from the pool of phantom archive `archive`."""
    pool = [draw_example(k, "pool", archive) for k in range(POOL)]
    table = LabelTable(
        archive=np.array([""] * POOL, object),
        member=np.array([e.member for e in pool], object),
        patient=np.array([e.patient_id for e in pool], object),
        split=np.array(["pool"] * POOL, object),
        labels=np.array([[c in e.labels for c in CATEGORIES] for e in pool]),
        categories=list(CATEGORIES),
    )
    pixels, supports = pixels_of(pool), []
    for seed in seeds:
        rows = draw_support(table, shots, seed)
        keys = [pool[r].member for r in rows]
        supports.append(SupportImages(shots, seed, keys, pixels[rows], table.labels[rows]))
    return fit_batch(backbone, load_catalog("phantoms"), supports, config)[0]


@torch.inference_mode()
def play(model: SignModel, test: list[Example]) -> pd.DataFrame:
    """One row for each sign in each phantom: sign, hit, chance, centre, other, auroc."""
    columns = [load_catalog("phantoms").sign_names.index(sign) for sign in SIGNS]
    signs = model.sign_embeddings()[:, columns]
    images = model.backbone.pixels(pixels_of(test))
    activations, _ = model.image_activations(images)
    z = (model.image_embeddings(activations) @ signs.transpose(1, 2)).mean(0).cpu().numpy()
    maps = upsample(occlusion_maps(model, signs, images).cpu().numpy(), images.shape[-2:])
    peaks = maps.reshape(*maps.shape[:2], -1).argmax(-1)
    rows = []
    for k, sign in enumerate(SIGNS):
        shown = np.array([sign in e.masks for e in test])
        auroc = roc_auc_score(shown, z[:, k])
        there = np.flatnonzero(shown)
        for row, other in zip(there, np.roll(there, 1), strict=True):
            near = distance_transform_edt(~test[row].masks[sign]) <= TOLERANCE
            middle = (near.shape[0] // 2, near.shape[1] // 2)
            rows.append(
                {
                    "sign": sign,
                    "hit": near.flat[peaks[row, k]],
                    "chance": near.mean(),
                    "centre": near[middle],
                    "other": near.flat[peaks[other, k]],
                    "auroc": auroc,
                }
            )
    return pd.DataFrame(rows)


def main(
    archives: Annotated[str, typer.Option(help="Numbers of phantom archives.")] = "1,2,3",
    seeds: Annotated[str, typer.Option(help="Seeds of the detector; maps are averaged.")] = "0:4",
    shots: Annotated[int, typer.Option(help="Shots of each support.")] = 4,
    images: Annotated[int, typer.Option(help="Test phantoms of each archive.")] = 200,
) -> None:
    """Play the pointing game with the fitted and the frozen model; print a table for each."""
    backbone = load_backbone(BackboneConfig(), "cpu")
    numbers = parse_numbers(archives, "archives")
    wanted = parse_numbers(seeds, "seeds")
    tests = {n: [draw_example(k, "test", n) for k in range(images)] for n in numbers}
    for name, config in (("SD-MAD", LearnerConfig()), ("frozen model", zero_shot())):
        # The frozen model is the same for every seed.
        own = wanted if name == "SD-MAD" else wanted[:1]
        parts = [play(fitted(backbone, config, n, shots, own), tests[n]) for n in numbers]
        games = pd.concat(parts).astype({"hit": float, "centre": float, "other": float})
        mean = games.groupby("sign", sort=False).mean()
        count = games.groupby("sign", sort=False).size()
        print(f"{name}, {shots} shots, archives {archives}, seeds {seeds}, per cent")
        print(f"{'':18s}     n    hit  chance  centre  other image  AUROC")
        for sign, row in mean.iterrows():
            mark = "" if row.chance < FOCAL else "  not counted"
            print(f"{sign!s:18s} {count[sign]:5d} {_columns(row)}{mark}")
        focal = mean.chance < FOCAL
        print(f"{'mean, focal signs':18s} {count[focal].sum():5d} {_columns(mean[focal].mean())}")
        every = [part.groupby("sign").hit.mean()[mean.index[focal]].mean() for part in parts]
        print("mean of each archive:", " ".join(f"{100 * float(v):.1f}" for v in every), "\n")


def _columns(row: pd.Series) -> str:
    hit, chance, centre, other, auroc = (100 * row).round(1)
    return f"{hit:6.1f} {chance:7.1f} {centre:7.1f} {other:12.1f} {auroc:6.1f}"


if __name__ == "__main__":
    typer.run(main)
