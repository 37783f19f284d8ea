"""Are the frozen signs good enough in place of adapters that did not see an image?

    python benchmarks/left_out_adapters.py ARCHIVE LABELS CATALOG [--backbone FOLDER]

LABELS is a development table (benchmarks/development.py); its split `test` is measured. Each fit
decides in three ways:

- shipped: in left-out images the frozen signs stand in for the adapted ones;
- left out: K further trainings, each without one image of every kind, give adapted signs for
  images that were left out. Weights, slopes and thresholds come from these;
- chosen steps: the same, with the number of training steps of `--steps` that has the lowest loss on
  images left out.

Prints a markdown table of means over seeds, with the seconds that each way adds to a fit.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pandas as pd
import ray
import torch
import typer

from sdmad import storage
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.comparison.calibration import coverage, errors
from sdmad.comparison.cell import at_shares, metrics
from sdmad.fitting.config import parse_numbers
from sdmad.fitting.reading import fetch, read_images, refuse
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.catalog import Catalog, load_catalog
from sdmad.inputs.labels import load_labels
from sdmad.method.augment import SupportImages
from sdmad.method.calibration import conformal_sets, conformal_thresholds, decided
from sdmad.method.combine import PriorWeights, fit_slopes, fit_weights, prior_weights
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.losses import category_loss
from sdmad.method.model import DecisionRule, Readings, SignModel
from sdmad.method.probe import fit_probe, with_any
from sdmad.method.selection import reliability_weights, separate
from sdmad.method.standard import fit_standard

SHOWN = {
    ("anomaly detection", "auroc"): "anomaly AUROC",
    ("category discrimination", "macro_normal"): "against normal",
    ("category discrimination", "macro_others"): "against others",
    ("multi-label prediction", "hamming_score"): "Hamming score",
}


@dataclass(frozen=True)
class Fitted:
    """A fit, its decision rule, and the loss of its logits for images left out."""

    model: SignModel
    rule: DecisionRule
    loss: float


@dataclass(frozen=True)
class Task:
    """What fits of one archive share."""

    backbone: Backbone
    catalog: Catalog
    learner: LearnerConfig

    def fit(self, supports: list[SupportImages], steps: int) -> tuple[SignModel, DecisionRule]:
        learner = self.learner.model_copy(update={"steps": steps})
        return fit_batch(self.backbone, self.catalog, supports, learner)

    @torch.no_grad()
    def read(self, model: SignModel, pixels: np.ndarray) -> Readings:
        images = model.image_activations(self.backbone.pixels(pixels))
        return model.read(*images, model.sign_embeddings())

    def left_out(self, support: SupportImages, steps: int) -> torch.Tensor:
        """Similarities (1, N, M) by adapters that did not see the image, nor those beside it."""
        kind = np.where(support.labels.any(1), support.labels.argmax(1), -1)
        turn = np.array([(kind[:k] == kind[k]).sum() for k in range(len(kind))])
        parts = [turn != k for k in range(turn.max() + 1)]
        supports = [
            replace(
                support,
                keys=[key for key, here in zip(support.keys, part, strict=True) if here],
                pixels=support.pixels[part],
                labels=support.labels[part],
            )
            for part in parts
        ]
        model, _ = self.fit(supports, steps)
        found = torch.zeros(1, len(kind), len(model.normal))
        for k, part in enumerate(parts):
            found[0, ~part] = self.read(model.seed(k), support.pixels[~part]).similarities[0]
        return found

    def decide(self, support: SupportImages, steps: int) -> Fitted:
        """The decision rule of `sdmad.method.learner`, with adapted signs of images left out."""
        model, rule = self.fit([support], steps)
        learner, selection = self.learner, self.learner.selection
        readings = self.read(model, support.pixels)
        labels = torch.from_numpy(support.labels).float()
        frozen = readings.frozen_similarities[None]
        found = separate(frozen, labels[None], model.membership)
        weights = reliability_weights(
            found.auc_without, found.agreed[:, None], model.membership, selection
        ).log()
        both = (frozen, self.left_out(support, steps) if steps else frozen)
        voices = [rule.voice(model, z, weights, selection)[0] for z in both]
        scales = [fit_standard(voice, prior=1.0) for voice in voices]
        of_frozen, of_adapted = (s.apply(v)[0] for s, v in zip(scales, voices, strict=True))
        shots = int(support.shots)
        prior = prior_weights(
            len(model.names),
            shots,
            learner.probe.weight,
            learner.zero_shot_weight,
            learner.adapted_weight,
        )
        share = prior.adapted / (prior.adapted + prior.category[1])
        signs = torch.lerp(of_frozen, of_adapted, share)
        together = [(probe, b + prior.adapted) for probe, b in (prior.category, prior.anomaly)]
        probe = fit_probe(readings.patches, labels, shots, learner.probe)
        targets = with_any(labels)
        fitted = fit_weights(probe.held_out, signs, targets, PriorWeights(*together, prior.adapted))
        a, b = fitted.parts.to(labels).unbind(-1)
        alone = b * signs + fitted.offset.to(labels)
        heads = alone + torch.where(a > 0, a * probe.held_out, 0.0)
        slopes = fit_slopes(heads, targets).to(labels)
        known = heads.isfinite()
        logits, _ = decided(heads.where(known, alone), learner.gate, None, slopes)
        thresholds = conformal_thresholds(
            logits.where(known[:, :-1], torch.nan), labels, learner.coverage
        )
        changed = replace(
            rule,
            centre=torch.stack([scale.mean for scale in scales], dim=1),
            spread=torch.stack([scale.deviation for scale in scales], dim=1),
            parts=torch.stack([a, b * (1 - share), b * share], dim=-1)[None],
            offset=fitted.offset.to(labels)[None],
            slopes=slopes[None],
            thresholds=thresholds[None],
        )
        return Fitted(
            model, changed, float(category_loss(heads.nan_to_num(0.0)[None], targets[None]))
        )

    @torch.no_grad()
    def measure(
        self, model: SignModel, rule: DecisionRule, pixels: np.ndarray, truth: np.ndarray
    ) -> dict[str, float]:
        stated = at_shares(self.learner, model.names, truth)
        found = []
        for images in np.array_split(pixels, max(1, len(pixels) // 64)):
            readings = self.read(model, images)
            plain, known = (rule.evidence(model, readings, c) for c in (self.learner, stated))
            sets = conformal_sets(plain.logits, rule.thresholds)[0]
            given = (plain.logits, plain.anomaly, known.logits, known.anomaly)
            found.append([*(torch.sigmoid(x)[0].numpy() for x in given), sets.numpy()])
        p, anomaly, p_known, anomaly_known, sets = map(np.concatenate, zip(*found, strict=True))
        of_protocols = metrics(truth, p, anomaly)
        row = {name: of_protocols[key] for key, name in SHOWN.items()}
        row["calibration error"] = errors(truth, p_known, anomaly_known)["error"]
        row |= {f"coverage, {k}": v for k, v in coverage(truth, sets).items() if "with" in k}
        return {name: 100 * value for name, value in row.items()}


def ways(task: Task, support: SupportImages, steps: list[int]) -> Iterator[tuple[str, Fitted]]:
    """The three ways to decide, each with what it adds to the one before."""
    model, rule = task.fit([support], task.learner.steps)
    yield "shipped", Fitted(model, rule, 0.0)
    usual = task.decide(support, task.learner.steps)
    yield "left out", usual
    others = [task.decide(support, count) for count in steps if count != task.learner.steps]
    yield "chosen steps", min([usual, *others], key=lambda fitted: fitted.loss)


def main(
    archive: str,
    labels: str,
    catalog: str,
    backbone: Annotated[str | None, typer.Option(help="Folder of a backbone.")] = None,
    shots: Annotated[str, typer.Option(help="Shots, at least 2.")] = "4",
    seeds: str = "0:8",
    steps: str = "0,50,100",
) -> None:
    learner = LearnerConfig()
    table_of = load_catalog(catalog)
    base = storage.resolve(archive)
    table = load_labels(storage.resolve(labels), table_of.category_names, base)
    loaded = load_backbone(BackboneConfig(model=backbone) if backbone else BackboneConfig(), "cpu")
    task = Task(loaded, learner.chosen_signs(table_of), learner)
    test = table.where(table.split == "test")
    named = list(zip(test.archive.tolist(), test.member.tolist(), strict=True))
    supports = [
        SupportRef.draw(table, k, seed)
        for k in parse_numbers(shots, "shots")
        for seed in parse_numbers(seeds, "seeds")
    ]
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    wanted = {*named, *(image for support in supports for image in support.images)}
    spec = table_of.chosen_input(None).apply(loaded.spec)
    pixels, problems = read_images(wanted, base, spec)
    refuse(problems)
    images = fetch(sorted(wanted), pixels)
    ray.shutdown()
    of_test = np.stack([images[name] for name in named])
    rows = []
    for ref in supports:
        begin = time.perf_counter()
        for way, fitted in ways(task, ref.with_pixels(images), parse_numbers(steps, "steps")):
            row = {"shots": ref.shots, "decides by": way, "seconds": time.perf_counter() - begin}
            rows.append(row | task.measure(fitted.model, fitted.rule, of_test, test.labels > 0))
            begin = time.perf_counter()
    means = pd.DataFrame(rows).groupby(["shots", "decides by"], sort=False).mean().reset_index()
    print("| " + " | ".join(means.columns) + " |\n" + "|---" * len(means.columns) + "|")
    for number, way, *values in means.itertuples(index=False):
        print(f"| {number} | {way} | " + " | ".join(f"{value:.1f}" for value in values) + " |")


if __name__ == "__main__":
    typer.run(main)
