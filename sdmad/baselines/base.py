"""What all baselines share: frozen images, the views of a support, training, and the scorer.

A baseline is a function `fit(task) -> Scorer`. It knows only a frozen backbone, a catalog and a
support. It turns images into *evidence* (B, C) for each category against normal. A bias for each
category and one temperature, both from the support, turn evidence into probabilities; the largest
of them is the anomaly score. SD-MAD has more: a head for any anomaly, a gate, and weights, slopes
and thresholds from left-out images of the support (`sdmad.method.combine`).

Shapes: B or N images, V views, C categories, E embedding width, T tokens, D token width.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from sdmad.backbones.loading import Backbone
from sdmad.backbones.towers import Activations
from sdmad.inputs.catalog import Catalog
from sdmad.method.augment import AugmentConfig, SupportImages, augment
from sdmad.method.calibration import fit_temperature
from sdmad.method.losses import category_loss, midpoint_bias


class BaselineConfig(BaseModel):
    """The training budget of every baseline; the default is that of the learner."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: int = Field(default=100, ge=0)
    images_per_class: int = Field(default=2, ge=1, description="in each step")
    augment: AugmentConfig = AugmentConfig()


BEFORE_BLOCKS = -1


class FrozenImages:
    """Images with the outputs of the frozen image tower, each computed once, at its first use.

    Scorers that are given the same object share its embeddings and activations. Pixels are encoded
    at most twice: for embeddings that are asked for first, and for the outputs of blocks. The input
    of the first block is kept for those, whichever block is asked for first.
    """

    def __init__(
        self, backbone: Backbone, pixels: np.ndarray, embeddings: torch.Tensor | None = None
    ) -> None:
        """`pixels` are uint8 (B, height, width, 3) at the backbone's size; `embeddings` (B, E) if
        they are known."""
        self.backbone = backbone
        self._pixels = pixels
        self._embeddings = embeddings
        self._after: dict[int, Activations] = {}

    def __len__(self) -> int:
        return len(self._pixels)

    @cached_property
    @torch.no_grad()
    def embeddings(self) -> torch.Tensor:
        """Unit embeddings (B, E)."""
        if self._embeddings is not None:
            return self._embeddings
        if not self._after:
            return torch.cat([self.backbone.embed_images(part) for part in self._parts()])
        tower, before = self.backbone.image, self.before_blocks()
        parts = [tower.head(tokens, before) for tokens in self._continued(len(tower.blocks) - 1)]
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def before_blocks(self) -> Activations:
        """The input (B, T, D) of the first block, as `f_in` and `f_frozen`."""
        if BEFORE_BLOCKS not in self._after:
            tower, pixels = self.backbone.image, map(self.backbone.pixels, self._parts())
            parts = [tower.before_block(part, 0) for part in pixels]
            tokens = torch.cat([part.f_in for part in parts])
            self._after[BEFORE_BLOCKS] = parts[0].of_images(tokens, tokens)
        return self._after[BEFORE_BLOCKS]

    @torch.no_grad()
    def after_block(self, block: int) -> Activations:
        """The output (B, T, D) of block `block` (0 is the first), as `f_in` and `f_frozen`."""
        before = self.before_blocks()
        if block not in self._after:
            tokens = torch.cat(self._continued(block))
            self._after[block] = before.of_images(tokens, tokens)
        return self._after[block]

    @property
    def encoded(self) -> bool:
        """Whether the pixels were encoded, and are not needed any more."""
        return BEFORE_BLOCKS in self._after

    @torch.no_grad()
    def activations(self, adapted_blocks: int) -> list[tuple[Activations, torch.Tensor]]:
        """`Backbone.image_activations` of the images, batch by batch, lean."""
        tower, before = self.backbone.image, self.before_blocks()
        index = tower.first_adapted(adapted_blocks)
        embeddings = self.embeddings.split(self.backbone.images_at_once)
        parts = []
        for tokens, units in zip(self._continued(index - 1), embeddings, strict=True):
            start = tower.describe(tokens, replace(before, f_in=tokens, f_frozen=tokens))
            parts.append((tower.adapted_part(start, index, lean=True), units))
        return parts

    def _continued(self, block: int) -> list[torch.Tensor]:
        """Outputs of `block`, batch by batch, from the latest block up to it that is kept."""
        start = max(earlier for earlier in self._after if earlier <= block)
        kept, outputs = self._after[start], []
        for tokens in kept.f_frozen.split(self.backbone.images_at_once):
            for later in range(start + 1, block + 1):
                tokens = self.backbone.image.block(later, tokens, kept)
            outputs.append(tokens)
        return outputs

    def take(self, rows: torch.Tensor) -> "FrozenImages":
        """The images at `rows`; they share the outputs of all images."""
        return _Taken(self, rows)

    def _parts(self) -> list[np.ndarray]:
        at_once = self.backbone.images_at_once
        return [self._pixels[k : k + at_once] for k in range(0, len(self), at_once)]


class _Taken(FrozenImages):
    def __init__(self, whole: FrozenImages, rows: torch.Tensor) -> None:
        super().__init__(whole.backbone, whole._pixels[:0])
        self._whole = whole
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def embeddings(self) -> torch.Tensor:
        return self._whole.embeddings[self._rows]

    def before_blocks(self) -> Activations:
        return self._some(self._whole.before_blocks())

    def after_block(self, block: int) -> Activations:
        return self._some(self._whole.after_block(block))

    def _some(self, activations: Activations) -> Activations:
        tokens = activations.f_frozen[self._rows]
        return replace(activations, f_in=tokens, f_frozen=tokens)


Evidence = Callable[[FrozenImages], torch.Tensor]


@dataclass(frozen=True)
class SupportViews:
    """All views of the images of a support, image by image in the order of their keys.

    `labels` are (N x V, C), `image` (N x V,) is the number of each view's image.
    """

    views: FrozenImages
    labels: torch.Tensor
    image: torch.Tensor
    num_views: int
    shots: int
    seed: int

    @staticmethod
    def of(
        backbone: Backbone,
        support: SupportImages,
        config: AugmentConfig,
        embeddings: torch.Tensor | None = None,
    ) -> "SupportViews":
        """The views that the learner has of the same support.

        `embeddings` (N, V, E), if they are known, are in the order of the support.
        """
        order = np.argsort(np.array(support.keys, object), kind="stable")
        pixels = np.stack(
            [
                augment(support.pixels[row], support.keys[row], view, config)
                for row in order
                for view in range(config.views)
            ]
        )
        labels = torch.from_numpy(support.labels[order]).float().to(backbone.device)
        return SupportViews(
            views=FrozenImages(
                backbone,
                pixels,
                None if embeddings is None else embeddings[torch.from_numpy(order)].flatten(0, 1),
            ),
            labels=labels.repeat_interleave(config.views, dim=0),
            image=torch.arange(len(order)).repeat_interleave(config.views),
            num_views=config.views,
            shots=int(support.shots),
            seed=support.seed,
        )

    @property
    def classes(self) -> torch.Tensor:
        """Labels (N x V, 1 + C) with normal as the first class."""
        normal = self.labels.sum(1, keepdim=True) == 0
        return torch.cat([normal.float(), self.labels], dim=1)

    @property
    def first(self) -> torch.Tensor:
        """The rows (N,) of the first views, which are the unchanged images."""
        return torch.arange(0, len(self.labels), self.num_views)


@dataclass(frozen=True)
class Task:
    """All that a baseline may use; all its random numbers come from `generator`."""

    backbone: Backbone
    catalog: Catalog
    support: SupportViews
    config: BaselineConfig
    generator: torch.Generator


@dataclass(frozen=True)
class Scorer:
    """A fitted baseline, from images to a probability for each category.

    `evidence` maps images to (B, C), `bias` is (C,), `temperature` ().
    """

    backbone: Backbone
    evidence: Evidence = field(repr=False)
    bias: torch.Tensor
    temperature: torch.Tensor

    @torch.no_grad()
    def scores(self, images: np.ndarray | FrozenImages) -> np.ndarray:
        """Probabilities (B, C), float32, of uint8 pixels (B, height, width, 3) or frozen images.

        Above 0.5 a category is a finding.
        """
        if isinstance(images, np.ndarray):
            images = FrozenImages(self.backbone, images)
        logits = (whole_evidence(self.evidence, images) - self.bias) / self.temperature
        return torch.sigmoid(logits).cpu().numpy()

    @staticmethod
    def anomaly(scores: np.ndarray) -> np.ndarray:
        """Anomaly scores (B,): the largest of the probabilities (B, C)."""
        return np.asarray(scores.max(axis=1))


@torch.no_grad()
def whole_evidence(evidence: Evidence, images: FrozenImages) -> torch.Tensor:
    """Evidence (B, C) of any number of images, computed in batches."""
    rows = torch.arange(len(images)).split(images.backbone.images_at_once)
    return torch.cat([evidence(images.take(some)) for some in rows])


def start_bias(evidence: Evidence, support: SupportViews) -> torch.Tensor:
    """The midpoint (C,) of the mean evidence of support images with and without each category."""
    of_images = whole_evidence(evidence, support.views.take(support.first))
    return midpoint_bias(of_images[None], support.labels[support.first][None])[0]


def calibrated(
    task: Task, evidence: Evidence, bias: torch.Tensor, on_support: torch.Tensor | None = None
) -> Scorer:
    """A scorer whose temperature is fitted to all views of the support.

    `on_support` (N x V, C) replaces the evidence on the support, for a baseline that stores it.
    """
    if on_support is None:
        on_support = whole_evidence(evidence, task.support.views)
    temperature = fit_temperature((on_support - bias)[None], task.support.labels[None])[0]
    return Scorer(task.backbone, evidence, bias, temperature)


def balanced_batches(task: Task) -> Iterator[torch.Tensor]:
    """Rows of the support's views for each step: equally many of each category and of normal."""
    support, config = task.support, task.config
    labels = support.labels[support.first].cpu()
    members = [(labels.sum(1) == 0).nonzero()[:, 0]]
    members += [column.nonzero()[:, 0] for column in labels.T]
    members = [some for some in members if len(some)]
    for _ in range(config.steps):
        draws = torch.rand(len(members), config.images_per_class, generator=task.generator)
        images = torch.cat(
            [some[(u * len(some)).long()] for some, u in zip(members, draws, strict=True)]
        )
        views = torch.randint(support.num_views, images.shape, generator=task.generator)
        yield images * support.num_views + views


def train(
    task: Task,
    evidence: Evidence,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    penalty: Callable[[], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Train `parameters` and a bias on the support, and return the bias (C,).

    As in the learner, the loss is L_cat and Adam's learning rate falls to 0 along a cosine.
    `penalty()` is added to the loss.
    """
    bias = nn.Parameter(start_bias(evidence, task.support))
    optimizer = torch.optim.Adam([*parameters, bias], lr=learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, task.config.steps))
    for rows in balanced_batches(task):
        logits = evidence(task.support.views.take(rows)) - bias
        loss = category_loss(logits[None], task.support.labels[rows][None])[0]
        if penalty is not None:
            loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return bias.detach()
