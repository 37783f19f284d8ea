"""Time saved by fitting many seeds in one batch, and cost of scoring with many in one pass.

    python benchmarks/seeds_in_one_batch.py                      # phantoms
    python benchmarks/seeds_in_one_batch.py --data DIRECTORY     # the ODIR-5K shards and labels.csv

Compares three ways to fit with the default configuration: all seeds in one batch; one seed after
the other; one after the other with a full forward pass of both towers in each step, as a plain
training loop does. Prints ratios of times that were measured side by side, medians with their
range. The three must give the same fits, so the largest difference of an image-sign cosine is
printed too. The plain loop makes no decision rules, which favours it.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer

from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.detector import Detector
from sdmad.fits import Provenance, deserialize, serialize
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.catalog import Catalog, load_catalog
from sdmad.inputs.labels import load_labels
from sdmad.method import losses
from sdmad.method.augment import SupportImages, augment, random_generator
from sdmad.method.learner import LearnerConfig, _schedule, fit_batch
from sdmad.method.model import SignModel
from sdmad.method.standard import Standard
from sdmad.phantoms.task import CATEGORIES, draw_example
from sdmad.runtime.cluster import MODEL_ENVIRONMENT

ADAPTERS = 8


def phantom_supports(count: int, shots: int) -> list[SupportImages]:
    """Supports without common images, so that seeds can share no work on images."""
    examples = [draw_example(k, "pool") for k in range(count * 120)]
    made = []
    for seed in range(count):
        mine = examples[seed * 120 : (seed + 1) * 120]
        chosen = [e for e in mine if not e.labels][:shots]
        for category in CATEGORIES:
            chosen += [e for e in mine if e.labels == (category,)][:shots]
        labels = np.array([[c in e.labels for c in CATEGORIES] for e in chosen])
        pixels = np.stack([np.repeat(e.image[..., None], 3, axis=2) for e in chosen])
        made.append(SupportImages(shots, seed, [e.member for e in chosen], pixels, labels))
    return made


@dataclass(frozen=True)
class Task:
    """What is fitted: one fit for each support in `drawn`."""

    backbone: Backbone
    catalog: Catalog
    drawn: list[SupportImages]
    config: LearnerConfig


def archive_supports(
    data: Path, catalog: Catalog, count: int, shots: int, spec: ImageSpec
) -> list[SupportImages]:
    """The supports that a training run draws, from the archive in the folder `data`."""
    labels = load_labels(str(data / "labels.csv"), catalog.category_names, str(data))
    drawn = [SupportRef.draw(labels, shots, seed) for seed in range(count)]
    wanted = sorted({image for ref in drawn for image in ref.images})
    pixels, _ = decode_members(str(data), wanted, spec)
    return [ref.with_pixels(pixels) for ref in drawn]


def plain_loop(
    backbone: Backbone,
    catalog: Catalog,
    support: SupportImages,
    config: LearnerConfig,
    start: torch.Tensor,
    standard: Standard,
) -> SignModel:
    """One fit with a full forward pass of both towers in every step, the bias starting at `start`.

    `start` has shape (1, C), `standard` is that of the fit (1, M). Only augmented views are cached.
    """
    model = SignModel(backbone, catalog, config.adapter, 1)
    generator = random_generator("weights", support.shots, support.seed)
    model.image_adapters.initialise(0, generator)
    model.text_adapters.initialise(0, generator)
    model.bias.data.copy_(start)
    images, chosen, labels = _schedule(support, config)
    pairs = zip(support.keys, support.pixels, strict=True)
    views = np.stack(
        [
            [augment(x, key, v, config.augment) for v in range(config.augment.views)]
            for key, x in pairs
        ]
    )
    texts, _ = catalog.texts
    tokens = backbone.tokens(texts)
    uniform = losses.uniform_log_weights(model.membership)
    normal = losses.uniform_log_weights(model.normal)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.steps))
    for step in range(config.steps):
        batch = backbone.pixels(views[images[step].numpy(), chosen[step].numpy()])
        activations = backbone.image.prefix(batch, config.adapter.image.blocks)
        v = F.normalize(backbone.image.suffix(activations, model.image_adapters.layers), dim=-1)
        prompts = backbone.text.prefix(tokens, config.adapter.text.blocks)
        t = model._sign_means(backbone.text.suffix(prompts, model.text_adapters.layers))
        z, y = standard.apply(v @ t.transpose(1, 2)), labels[step][None]
        evidence = losses.category_evidence(z, uniform, normal)
        loss = losses.category_loss(evidence - model.bias[:, None], y)
        weight = config.objective.sign_weight
        loss = loss + weight * losses.sign_loss(z, y, model.membership, model.normal)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        decay.step()
    return model


@torch.no_grad()
def cosines(model: SignModel, pixels: np.ndarray) -> torch.Tensor:
    """Cosines (S, B, M) of images with all signs."""
    activations, frozen = model.image_activations(model.backbone.pixels(pixels))
    return model.read(activations, frozen, model.sign_embeddings()).similarities


def fitting(task: Task, repeats: int) -> None:
    """Compare the three ways to fit; print ratios and differences."""
    backbone, catalog, drawn, config = task.backbone, task.catalog, task.drawn, task.config
    begun, rule = fit_batch(backbone, catalog, drawn, config.model_copy(update={"steps": 0}))
    start, standard = begun.bias, rule.standard
    alone, plain = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        batch, _ = fit_batch(backbone, catalog, drawn, config)
        together = time.perf_counter() - begin
        begin = time.perf_counter()
        singles = [fit_batch(backbone, catalog, [s], config)[0] for s in drawn]
        alone.append((time.perf_counter() - begin) / together)
        begin = time.perf_counter()
        loops = [
            plain_loop(backbone, catalog, s, config, start[k : k + 1], standard[k : k + 1])
            for k, s in enumerate(drawn)
        ]
        plain.append((time.perf_counter() - begin) / together)
    line("one batch, against one fit after the other", alone)
    line("one batch, against a full forward pass in every step", plain)
    pixels = drawn[0].pixels
    expected = cosines(batch, pixels)
    for name, models in (("one by one", singles), ("the plain loop", loops)):
        found = torch.cat([cosines(model, pixels) for model in models])
        print(f"largest difference of a cosine from {name}: {(found - expected).abs().max():.0e}")


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def line(name: str, ratios: list[float]) -> None:
    low, high = min(ratios), max(ratios)
    print(f"{name:58s} {statistics.median(ratios):6.2f} x   ({low:.2f} to {high:.2f})", flush=True)


def scoring(task: Task, repeats: int) -> None:
    """Print the time of scoring with `ADAPTERS` seeds over that with one."""
    backbone, catalog, drawn, config = task.backbone, task.catalog, task.drawn, task.config
    few = config.model_copy(update={"steps": 5})
    model, rule = fit_batch(backbone, catalog, drawn[:ADAPTERS], few)
    provenance = Provenance.of(
        backbone,
        catalog=catalog,
        learner=config,
        shots=drawn[0].shots,
        seed=0,
        support_images=0,
        support_digest="",
    )
    fits = [deserialize(serialize(model, rule, k, provenance), "") for k in range(ADAPTERS)]
    one, eight = Detector(backbone, fits[:1]), Detector(backbone, fits)
    images = np.random.default_rng(0).integers(0, 255, (256, *one.spec.size, 3), np.uint8)
    ratios = []
    for _ in range(repeats + 1):
        base = seconds(lambda: one.score_pixels(images))
        ratios.append(seconds(lambda: eight.score_pixels(images)) / base)
    line(f"scoring with {ADAPTERS} seeds in one pass, against 1 seed", ratios[1:])


def main(
    seeds: Annotated[int, typer.Option(help="Seeds to fit.", min=ADAPTERS)] = 16,
    shots: Annotated[int, typer.Option(help="Shots of each support.")] = 4,
    repeats: Annotated[int, typer.Option(help="Turns.", min=1)] = 3,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with ODIR-5K shards; default: phantoms."),
    ] = None,
) -> None:
    """Time fitting and scoring with many seeds; print ratios."""
    if not MODEL_ENVIRONMENT.items() <= os.environ.items():  # As in a training run.
        again = [sys.executable, *sys.argv]
        sys.exit(subprocess.run(again, env=os.environ | MODEL_ENVIRONMENT).returncode)
    backbone = load_backbone(BackboneConfig(), "cpu")
    catalog, config = load_catalog("fundus" if data else "phantoms"), LearnerConfig()
    drawn = (
        archive_supports(data, catalog, seeds, shots, backbone.spec)
        if data
        else phantom_supports(seeds, shots)
    )
    print(
        f"{catalog.name}: {seeds} seeds, {shots} shots, {config.steps} steps, "
        f"{torch.get_num_threads()} threads"
    )
    task = Task(backbone, catalog, drawn, config)
    fitting(task, repeats)
    scoring(task, repeats)


if __name__ == "__main__":
    typer.run(main)
