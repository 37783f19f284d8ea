"""How much is saved by fitting many seeds in one batch, and by scoring with many in one pass.

    python benchmarks/seeds_in_one_batch.py

Three ways to fit, at the shipped default, on phantoms: all seeds in one batch; one seed after the
other; one after the other with a full forward pass of both towers in each step, as a plain training
loop would do it. Ratios, measured side by side, repeated; medians with their range.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer

from sdmad import objective
from sdmad.backbone import Backbone, BackboneConfig, load_backbone
from sdmad.catalog import Catalog, load_catalog
from sdmad.detector import Detector
from sdmad.fits import Provenance, code_version, pack, unpack
from sdmad.learner import LearnerConfig, SupportImages, _schedule, fit_batch
from sdmad.model import SignModel
from sdmad.phantoms.task import CATEGORIES, draw_example


def supports(count: int, shots: int) -> list[SupportImages]:
    """Supports of disjoint images: worst case for sharing between seeds."""
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


def plain_loop(
    backbone: Backbone, catalog: Catalog, support: SupportImages, config: LearnerConfig
) -> None:
    """One fit with a forward pass of both whole towers in every step; nothing is cached."""
    model = SignModel(backbone, catalog, config.adapter, 1)
    generator = torch.Generator().manual_seed(support.seed)
    model.image_adapters.initialise(0, generator)
    model.text_adapters.initialise(0, generator)
    images, _, labels = _schedule(support, config)
    texts, _ = catalog.texts
    tokens = backbone.tokens(texts)
    uniform = objective.uniform_log_weights(model.membership)
    normal = objective.uniform_log_weights(model.normal)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for step in range(config.steps):
        batch = backbone.pixels(support.pixels[images[step].numpy()])
        activations = backbone.image.prefix(batch, config.adapter.image.blocks)
        v = F.normalize(backbone.image.suffix(activations, model.image_adapters), dim=-1)
        prompts = backbone.text.prefix(tokens, config.adapter.text.blocks)
        t = model._sign_means(backbone.text.suffix(prompts, model.text_adapters))
        z, y = v @ t.transpose(1, 2), labels[step][None]
        evidence = objective.category_evidence(z, uniform, normal, model.scale)
        loss = objective.category_loss(evidence - model.bias[:, None], y)
        weight = config.objective.sign_weight
        loss = loss + weight * objective.sign_loss(
            z, y, model.membership, model.normal, model.scale
        )
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def line(name: str, ratios: list[float]) -> None:
    low, high = min(ratios), max(ratios)
    print(f"{name:58s} {statistics.median(ratios):6.2f} x   ({low:.2f} to {high:.2f})")


def main(
    seeds: Annotated[int, typer.Option(help="Seeds to fit.")] = 16,
    shots: Annotated[int, typer.Option(help="Shots.")] = 4,
    repeats: Annotated[int, typer.Option(help="Repetitions.")] = 3,
) -> None:
    """Print the ratios."""
    backbone, catalog = load_backbone(BackboneConfig(), "cpu"), load_catalog("phantoms")
    config, drawn = LearnerConfig(), supports(seeds, shots)
    fit_batch(backbone, catalog, drawn[:1], config)
    alone, plain = [], []
    # The plain loop is slow: a quarter of the seeds, scaled.
    some = drawn[: max(1, seeds // 4)]
    for _ in range(repeats):
        together = seconds(lambda: fit_batch(backbone, catalog, drawn, config))
        one_by_one = seconds(lambda: [fit_batch(backbone, catalog, [s], config) for s in drawn])
        loop = seconds(lambda: [plain_loop(backbone, catalog, s, config) for s in some])
        alone.append(one_by_one / together)
        plain.append(loop * len(drawn) / len(some) / together)
    print(f"{seeds} seeds, {shots} shots, {config.steps} steps, {torch.get_num_threads()} threads")
    line("one batch, against one fit after the other", alone)
    line("one batch, against a full forward pass in every step", plain)

    model, rule = fit_batch(backbone, catalog, drawn[:8], config.model_copy(update={"steps": 5}))
    provenance = Provenance(
        code_version=code_version(),
        backbone=BackboneConfig(),
        backbone_fingerprint=backbone.fingerprint,
        catalog=catalog,
        learner=config,
        shots=shots,
        seed=0,
        support_images=0,
        support_digest="",
    )
    fits = [unpack(pack(model, rule, k, provenance), "") for k in range(8)]
    one, eight = Detector(backbone, fits[:1]), Detector(backbone, fits)
    images = np.random.default_rng(0).integers(0, 255, (256, *one.spec.size, 3), np.uint8)
    ratios = []
    for _ in range(repeats + 1):
        base = seconds(lambda: one.score_pixels(images))
        ratios.append(seconds(lambda: eight.score_pixels(images)) / base)
    line("scoring with 8 seeds in one pass, against 1 seed", ratios[1:])


if __name__ == "__main__":
    typer.run(main)
