"""One method on one support: fit, score the test images, compute metrics. No Ray, no files."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from sdmad import baselines
from sdmad.backbones.loading import Backbone
from sdmad.backbones.towers import Activations
from sdmad.baselines import BASELINES, READ_BLOCKS, BaselineConfig, FrozenImages, SupportViews
from sdmad.comparison.config import Variant
from sdmad.evaluation import protocols
from sdmad.inputs.catalog import Catalog
from sdmad.method.augment import AugmentConfig, SupportImages
from sdmad.method.calibration import conformal_sets
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.model import SignModel
from sdmad.method.views import StoredViews, SupportCache, encode

EDGE = 1e-6
TENSORS = ("f_in", "f_frozen", "patches")
"""What `Activations.of_images` takes."""


@dataclass(frozen=True)
class TestImages:
    """The test split: uint8 pixels (N, height, width, 3) at the backbone's size, truth (N, C).

    `encoded` is what the frozen image tower makes of the images, where that is stored: activations
    (N, T, D) for one adapted block, and unit embeddings (N, E). Then `pixels` is (N, 0, 0, 3).
    """

    __test__ = False
    pixels: np.ndarray
    truth: np.ndarray
    encoded: tuple[Activations, torch.Tensor] | None = None


class Scored(NamedTuple):
    """What a method makes of N test images.

    Scores (N, C) and anomaly scores (N,). Of SD-MAD also the conformal sets (N, C, 2), which say
    whether "with the category" and "without it" are possible, and the scores (N, C + 1), any
    anomaly last, that it gives where the prevalences of the test images are stated.
    """

    scores: np.ndarray
    anomaly: np.ndarray
    possible: np.ndarray | None = None
    stated: np.ndarray | None = None


class Bench:
    """Fits and measures methods with the same backbone, catalog, budget and test images.

    The outputs of the frozen backbone for the test images are computed once and kept in memory, and
    those for the views of a support until the next support. With one adapted block and a head that
    reads one token that is two tokens an image, else all tokens of a block (0.15 MB for ViT-B/32,
    1 MB for ViT-L/14). Pixels are encoded once if methods come `in_order`.
    """

    def __init__(
        self,
        backbone: Backbone,
        catalog: Catalog,
        learner: LearnerConfig,
        budget: BaselineConfig,
        test: TestImages,
    ) -> None:
        self.backbone, self.catalog, self.test = backbone, catalog, test
        self.learner = learner
        augment = budget.augment.chosen(catalog.flip)
        self.budget = budget.model_copy(update={"augment": augment})
        self._images: FrozenImages | None = None
        self._prefixes: dict[int, list[tuple[Activations, torch.Tensor]]] = {}
        self._views: tuple[tuple[int | str, int], SupportViews] | None = None
        self._cache: tuple[tuple[int | str, int, int, AugmentConfig], SupportCache] | None = None

    def score(self, method: str, variant: Variant | None, support: SupportImages) -> Scored:
        """What one method makes of the test images, fitted to `support`.

        A `method` that is not in `BASELINES` is SD-MAD, changed by `variant`.
        """
        if method in BASELINES:
            return self._baseline(method, support)
        return self._sd_mad(variant or Variant(), support)

    def _baseline(self, name: str, support: SupportImages) -> Scored:
        key = (support.shots, support.seed)
        if self._views is None or self._views[0] != key:
            known = support.encoded[1][:, None] if support.encoded else self._known_views(support)
            views = SupportViews.of(self.backbone, support, self.budget.augment, known)
            self._views = (key, views)
        if self._images is None:
            some = next(iter(self._prefixes.values()), None)
            known = None if some is None else torch.cat([frozen for _, frozen in some])
            known = self.test.encoded[1] if self.test.encoded else known
            self._images = FrozenImages(self.backbone, self.test.pixels, known)
        if name in READ_BLOCKS:
            # Embeddings that are asked for first would encode the pixels a second time.
            self._views[1].views.before_blocks()
            self._images.before_blocks()
        scorer = baselines.fit(name, self.backbone, self.catalog, self._views[1], self.budget)
        scores = scorer.scores(self._images)
        return Scored(scores, scorer.anomaly(scores))

    def _known_views(self, support: SupportImages) -> torch.Tensor | None:
        """Unit embeddings (N, V, E) of a support's views, if SD-MAD has encoded the same ones."""
        if self._cache is None:
            return None
        (shots, seed, _, config), cache = self._cache
        if (shots, seed, config) != (support.shots, support.seed, self.budget.augment):
            return None
        rows = cache.rows(cache.images[0][:, None], torch.arange(config.views))
        return cache.views.frozen[rows]

    def _sd_mad(self, variant: Variant, support: SupportImages) -> Scored:
        learner = variant.changed(self.learner)
        catalog = learner.chosen_signs(variant.catalog(self.catalog))
        model, rule = fit_batch(self.backbone, catalog, [support], learner, encoder=self._encoded)
        stated = (
            learner
            if learner.prevalence != 0.5
            else at_shares(learner, catalog.category_names, self.test.truth)
        )
        parts = []
        with torch.no_grad():
            signs = model.sign_embeddings()
            for activations, frozen in self._prefix(model):
                readings = model.read(activations, frozen, signs)
                found = rule.evidence(model, readings, learner)
                known = rule.evidence(model, readings, stated)
                parts.append(
                    [
                        torch.sigmoid(found.logits[0]),
                        torch.sigmoid(found.anomaly[0]),
                        conformal_sets(found.logits, rule.thresholds)[0],
                        torch.sigmoid(torch.cat([known.logits[0], known.anomaly[0, :, None]], 1)),
                    ]
                )
        return Scored(*(torch.cat(some).cpu().numpy() for some in zip(*parts, strict=True)))

    def _encoded(
        self, model: SignModel, supports: list[SupportImages], config: AugmentConfig
    ) -> SupportCache:
        """The encoded views of one support, which variants share."""
        [support] = supports
        blocks = model.config.image.blocks
        key = (support.shots, support.seed, blocks, config)
        if self._cache is None or self._cache[0] != key:
            self._cache = None  # Two caches at once would take the memory of two.
            views = self._encoded_views(support, config)
            cache = (
                encode(model, supports, config) if views is None else _cache(views, support, blocks)
            )
            self._cache = (key, cache)
        return self._cache[1]

    def _encoded_views(self, support: SupportImages, config: AugmentConfig) -> SupportViews | None:
        """The views of a support, if a baseline has encoded their pixels."""
        if self._views is None or config != self.budget.augment:
            return None
        key, views = self._views
        return views if key == (support.shots, support.seed) and views.views.encoded else None

    @torch.no_grad()
    def _prefix(self, model: SignModel) -> list[tuple[Activations, torch.Tensor]]:
        blocks = model.config.image.blocks
        if self.test.encoded:
            return _batches(*self.test.encoded, self.backbone.images_at_once)
        if blocks not in self._prefixes and self._images is not None and self._images.encoded:
            self._prefixes[blocks] = self._images.activations(blocks)
        if blocks not in self._prefixes:
            pixels, at_once = self.test.pixels, self.backbone.images_at_once
            self._prefixes[blocks] = [
                model.image_activations(
                    self.backbone.pixels(pixels[start : start + at_once]), lean=True
                )
                for start in range(0, len(pixels), at_once)
            ]
        return self._prefixes[blocks]


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods in an order in which a `Bench` encodes pixels once for all of them."""
    return sorted(methods, key=lambda method: method not in READ_BLOCKS)


def _cache(views: SupportViews, support: SupportImages, blocks: int) -> SupportCache:
    """The views of `support` as SD-MAD reads them, for a number of adapted blocks."""
    parts = views.views.activations(blocks)
    tensors = [
        torch.cat([getattr(activations, name) for activations, _ in parts]) for name in TENSORS
    ]
    activations = parts[0][0].of_images(*tensors)
    frozen = torch.cat([embeddings for _, embeddings in parts])
    place = np.argsort(np.argsort(np.array(support.keys, object), kind="stable"))
    images = torch.from_numpy(place)
    return SupportCache(StoredViews(activations, frozen), views.num_views, [images])


def at_shares(learner: LearnerConfig, names: list[str], truth: np.ndarray) -> LearnerConfig:
    """`learner` with the prevalences of images with the labels `truth` (N, C) stated."""
    shares = np.clip(truth.mean(axis=0), EDGE, 1 - EDGE).tolist()
    anomaly = float(np.clip(truth.any(axis=1).mean(), EDGE, 1 - EDGE))
    stated = {
        "prevalence": dict(zip(names, shares, strict=True)),
        "anomaly_prevalence": anomaly,
    }
    return learner.model_copy(update=stated)


def _batches(
    activations: Activations, frozen: torch.Tensor, at_once: int
) -> list[tuple[Activations, torch.Tensor]]:
    parts = zip(*(getattr(activations, name).split(at_once) for name in TENSORS), strict=True)
    of_images = [activations.of_images(*tensors) for tensors in parts]
    return list(zip(of_images, frozen.split(at_once), strict=True))


def metrics(
    truth: np.ndarray, scores: np.ndarray, anomaly: np.ndarray
) -> dict[tuple[str, str], float]:
    """The metrics of all protocols, by (protocol, metric).

    Truth and scores are (N, C), anomaly scores (N,).
    """
    first = protocols.anomaly_detection(truth, anomaly)
    second = protocols.category_discrimination(truth, scores)
    third = protocols.multilabel_prediction(truth, scores)
    found = {("anomaly detection", metric): value for metric, value in first.items()}
    for kind, values in second.items():
        some = np.isfinite(values).any()
        macro = float(np.nanmean(values)) if some else float("nan")
        found["category discrimination", f"macro_{kind}"] = macro
    return found | {("multi-label prediction", metric): value for metric, value in third.items()}
