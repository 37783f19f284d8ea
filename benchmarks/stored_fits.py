"""Fits from activations compared with fits from images, of the same supports of phantoms.

    python benchmarks/stored_fits.py

One view of each support image, 16 seeds, the embedded backbone. Activations are float16. Signs are
weighed by their AUC on the support, a count of pairs of images, so rounding that swaps two images
changes a weight by a step. Prints for each number of shots in how many fits this happened, and how
much scores of test images differ in these fits and in the others.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import typer

from sdmad.activations import Layout
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.inputs.catalog import Catalog, load_catalog
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.support import draw_support
from sdmad.method.augment import AugmentConfig, SupportImages
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.phantoms.task import CATEGORIES, Example, draw_example

LEARNER = LearnerConfig(augment=AugmentConfig(views=1))
NONE = "-"


def drawn(count: int, split: str) -> list[Example]:
    return [draw_example(k, split) for k in range(count)]


def pixels_of(examples: list[Example]) -> np.ndarray:
    return np.stack([np.repeat(e.image[..., None], 3, 2) for e in examples])


def supports_of(pool: list[Example], shots: int, seeds: int) -> list[SupportImages]:
    labels = np.array([[name in e.labels for name in CATEGORIES] for e in pool])
    table = LabelTable(
        archive=np.array([""] * len(pool), object),
        member=np.array([e.member for e in pool], object),
        patient=np.array([e.patient_id for e in pool], object),
        split=np.array(["pool"] * len(pool), object),
        labels=labels,
        categories=list(CATEGORIES),
    )
    pixels = pixels_of(pool)
    supports = []
    for seed in range(seeds):
        rows = draw_support(table, shots, seed)
        keys = [pool[row].member for row in rows]
        supports.append(SupportImages(shots, seed, keys, pixels[rows], labels[rows]))
    return supports


def stored(backbone: Backbone, layout: Layout, support: SupportImages) -> SupportImages:
    """The support with activations as they are stored."""
    images = backbone.pixels(support.pixels)
    with torch.no_grad():
        columns = layout.columns_of(*backbone.image_activations(images, 1, lean=True))
    encoded = layout.restore(columns, backbone.image, backbone.device)
    return replace(support, encoded=encoded)


def fit(
    backbone: Backbone, catalog: Catalog, supports: list[SupportImages], pixels: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (S, B, C) of images by fits, and the AUC (S, C, M) of their signs."""
    model, rule = fit_batch(backbone, catalog, supports, LEARNER)
    with torch.no_grad():
        activations, frozen = model.image_activations(backbone.pixels(pixels))
        readings = model.read(activations, frozen, model.sign_embeddings())
        return torch.sigmoid(rule.evidence(model, readings, LEARNER).logits), rule.support_auc


def main(
    seeds: Annotated[int, typer.Option(help="Seeds.")] = 16,
    images: Annotated[int, typer.Option(help="Test images.")] = 200,
) -> None:
    """Fit from images and from activations; print how scores differ."""
    backbone = load_backbone(BackboneConfig(), "cpu")
    layout, catalog = Layout.of(backbone), LEARNER.chosen_signs(load_catalog("phantoms"))
    pool, pixels = drawn(400, "pool"), pixels_of(drawn(images, "test"))
    for shots in (1, 2, 4, 8):
        supports = supports_of(pool, shots, seeds)
        right, auc = fit(backbone, catalog, supports, pixels)
        same = [stored(backbone, layout, support) for support in supports]
        found, other = fit(backbone, catalog, same, pixels)
        swapped = (auc != other).flatten(1).any(1)
        difference = (found - right).abs()
        shown = []
        for name, some in (("swapped", swapped), ("others", ~swapped)):
            part = difference[some]
            values = f"{part.max():.1e}, mean {part.mean():.1e}" if some.any() else NONE
            shown.append(f"{name}: {values}")
        print(f"{shots} shots: {int(swapped.sum())} of {seeds} swapped; {'; '.join(shown)}")


if __name__ == "__main__":
    typer.run(main)
