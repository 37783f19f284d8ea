"""SD-MAD compared with zero-shot CLIP with the same signs, on many supports of phantoms.

    python benchmarks/phantom_claim.py --archives 1,2,3 --seeds 0:16 --shots 4

Archive 0 is the demo's; other numbers give other images. Prints the mean and standard deviation of
every metric, and the mean difference with its 95 % interval over all pairs of archive and seed.
"""

from typing import Annotated

import numpy as np
import torch
import typer

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.demo.run import zero_shot
from sdmad.evaluation import protocols
from sdmad.evaluation.statistics import over_seeds
from sdmad.fitting.config import parse_numbers
from sdmad.inputs.catalog import load_catalog
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.support import draw_support
from sdmad.method.augment import SupportImages
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.phantoms.task import CATEGORIES, draw_example

IMAGES = 600
METRICS = (
    *("AUROC", "average precision", "AUROC against normal", "AUROC against others"),
    *("Hamming score", "1 - Hamming loss", "subset accuracy", "macro F1"),
)


def draw_archive(number: int) -> tuple[np.ndarray, LabelTable]:
    """Pixels (N, 64, 64, 3) and labels of a phantom archive, pool first."""
    examples = [draw_example(k, split, number) for split in ("pool", "test") for k in range(IMAGES)]
    table = LabelTable(
        archive=np.array([""] * len(examples), object),
        member=np.array([e.member for e in examples], object),
        patient=np.array([e.patient_id for e in examples], object),
        split=np.array([e.split for e in examples], object),
        labels=np.array([[c in e.labels for c in CATEGORIES] for e in examples]),
        categories=list(CATEGORIES),
    )
    return np.stack([np.repeat(e.image[..., None], 3, axis=2) for e in examples]), table


@torch.no_grad()
def metrics(
    backbone: Backbone,
    config: LearnerConfig,
    pixels: np.ndarray,
    table: LabelTable,
    shots: int,
    seeds: list[int],
) -> np.ndarray:
    """Every metric of every seed on the test split: (seeds, metrics), per cent."""
    supports = []
    for seed in seeds:
        rows = draw_support(table, shots, seed)
        keys = [str(table.member[r]) for r in rows]
        supports.append(SupportImages(shots, seed, keys, pixels[rows], table.labels[rows]))
    with torch.enable_grad():
        model, rule = fit_batch(
            backbone, config.chosen_signs(load_catalog("phantoms")), supports, config
        )
    test = table.split == "test"
    activations, frozen = model.image_activations(backbone.pixels(pixels[test]))
    readings = model.read(activations, frozen, model.sign_embeddings())
    found = rule.evidence(model, readings, config)
    truth, rows_out = table.labels[test], []
    probabilities, anomaly = (torch.sigmoid(x).numpy() for x in (found.logits, found.anomaly))
    for p, of_any in zip(probabilities, anomaly, strict=True):
        one = protocols.anomaly_detection(truth, of_any)
        two = protocols.category_discrimination(truth, p)
        three = protocols.multilabel_prediction(truth, p)
        macro = [np.nanmean(two["normal"]), np.nanmean(two["others"])]
        rows_out.append([*one.values(), *macro, *three.values()])
    return 100 * np.array(rows_out)


def main(
    archives: Annotated[str, typer.Option(help="Numbers of phantom archives.")] = "1,2,3",
    seeds: Annotated[str, typer.Option(help="Seeds, one support each.")] = "0:16",
    shots: Annotated[int, typer.Option(help="Shots of each support.")] = 4,
) -> None:
    """Compare SD-MAD with zero-shot on many supports; print a table."""
    backbone = load_backbone(BackboneConfig(), "cpu")
    ours, theirs = [], []
    for number in parse_numbers(archives, "archives"):
        pixels, table = draw_archive(number)
        wanted = parse_numbers(seeds, "seeds")
        ours.append(metrics(backbone, LearnerConfig(), pixels, table, shots, wanted))
        theirs.append(metrics(backbone, zero_shot(), pixels, table, shots, wanted))
    sdmad, zero = np.concatenate(ours), np.concatenate(theirs)
    print(f"{len(sdmad)} supports, {shots} shots, per cent")
    print(f"{'':24s} {'SD-MAD':>13s} {'zero-shot':>13s}   difference (95 % interval)")
    for k, name in enumerate(METRICS):
        difference = over_seeds((sdmad[:, k] - zero[:, k]) / 100)
        low, high = (100 * end for end in difference.interval)
        print(
            f"{name:24s} {sdmad[:, k].mean():6.1f} ± {sdmad[:, k].std(ddof=1):4.1f} "
            f"{zero[:, k].mean():6.1f} ± {zero[:, k].std(ddof=1):4.1f}   "
            f"{100 * difference.mean:+5.2f} ({low:+5.2f} to {high:+5.2f})"
        )


if __name__ == "__main__":
    typer.run(main)
