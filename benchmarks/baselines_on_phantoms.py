"""All baselines and SD-MAD on a phantom archive, with the same supports.

    python benchmarks/baselines_on_phantoms.py --archive 1 --shots 4 --seeds 0:4

Prints every figure of the protocols on the test split, mean and standard deviation over seeds.
"""

from typing import Annotated

import numpy as np
import torch
import typer
from phantom_claim import FIGURES, draw_archive
from phantom_claim import figures as sd_mad_figures

from sdmad import baselines, protocols
from sdmad.backbone import Backbone, BackboneConfig, load_backbone
from sdmad.catalog import load_catalog
from sdmad.config import parse_numbers
from sdmad.demo import zero_shot
from sdmad.labels import LabelTable
from sdmad.learner import LearnerConfig, SupportImages
from sdmad.support import draw_support

IMAGES_AT_ONCE = 64


def baseline_figures(
    names: list[str],
    backbone: Backbone,
    pixels: np.ndarray,
    table: LabelTable,
    shots: int,
    seeds: list[int],
) -> dict[str, np.ndarray]:
    """Every figure of every seed (seeds, figures) for each baseline, on the test split."""
    catalog, config = load_catalog("phantoms"), baselines.BaselineConfig()
    scorers = {}
    for seed in seeds:
        rows = draw_support(table, shots, seed)
        keys = [str(table.member[r]) for r in rows]
        support = SupportImages(shots, seed, keys, pixels[rows], table.labels[rows])
        views = baselines.SupportViews.of(backbone, support, config.augment)
        for name in names:
            scorers[name, seed] = baselines.fit(name, backbone, catalog, views, config)
    test = table.split == "test"
    parts: dict[tuple[str, int], list[np.ndarray]] = {key: [] for key in scorers}
    for start in range(0, int(test.sum()), IMAGES_AT_ONCE):
        images = baselines.FrozenImages(backbone, pixels[test][start : start + IMAGES_AT_ONCE])
        for key, scorer in scorers.items():
            parts[key].append(scorer.scores(images))
    truth = table.labels[test]
    scores = {key: np.concatenate(some) for key, some in parts.items()}
    return {
        name: 100 * np.array([all_figures(truth, scores[name, seed]) for seed in seeds])
        for name in names
    }


def all_figures(truth: np.ndarray, scores: np.ndarray) -> list[float]:
    """The figures of all protocols in the order of `FIGURES`."""
    one = protocols.anomaly_detection(truth, baselines.Scorer.anomaly(scores))
    two = protocols.category_discrimination(truth, scores)
    three = protocols.multilabel_prediction(truth, scores)
    return [
        *one.values(),
        float(np.nanmean(two["normal"])),
        float(np.nanmean(two["others"])),
        *three.values(),
    ]


def main(
    archive: Annotated[int, typer.Option(help="Phantom archive.")] = 1,
    shots: Annotated[int, typer.Option(help="Shots.")] = 4,
    seeds: Annotated[str, typer.Option(help="Supports.")] = "0:4",
    only: Annotated[str, typer.Option(help="Baselines, with commas; empty: all.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    backbone = load_backbone(BackboneConfig(), "cpu")
    wanted = parse_numbers(seeds, "seeds")
    names = only.split(",") if only else list(baselines.BASELINES)
    pixels, table = draw_archive(archive)
    rows = baseline_figures(names, backbone, pixels, table, shots, wanted)
    for name, learner in (("sd-mad without adapters", zero_shot()), ("sd-mad", LearnerConfig())):
        rows[name] = sd_mad_figures(backbone, learner, pixels, table, shots, wanted)
    print(f"archive {archive}, {shots} shots, {len(wanted)} seeds, per cent")
    print(" | ".join(["", *FIGURES]))
    for name, values in rows.items():
        cells = [f"{s.mean:.1f} ± {s.std:.1f}" for s in map(protocols.summarise, values.T)]
        print(" | ".join([name, *cells]))


if __name__ == "__main__":
    typer.run(main)
