"""Fit Shift Adapters and decision rules to few-shot supports, several in one batch.

    model, rule = fit_batch(backbone, catalog, supports, LearnerConfig())

The randomness of a fit (initial weights, batches, augmentation) comes from its shots, its seed and
the names of its images, so a fit does not depend on the other fits in its batch.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from sdmad.backbones.loading import Backbone
from sdmad.backbones.towers import Activations
from sdmad.inputs.catalog import Catalog
from sdmad.method import losses
from sdmad.method.adapter import AdapterConfig
from sdmad.method.calibration import fit_temperature, undecided_band
from sdmad.method.losses import ObjectiveConfig
from sdmad.method.model import DecisionRule, Readings, SignModel
from sdmad.method.probe import ProbeConfig, fit_probe
from sdmad.method.selection import (
    SelectionConfig,
    backbone_trust,
    pairwise_auc,
    reliability_weights,
)

IMAGES_AT_ONCE = 64


class AugmentConfig(BaseModel):
    """Light augmentation of support images; the views of an image are made once and cached."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    views: int = Field(
        default=8, ge=1, description="versions of each support image, the original included"
    )
    flip: bool = Field(
        default=True,
        description="mirror half of the views left to right; `false` where sides differ (chest)",
    )
    shift: float = Field(
        default=0.06,
        ge=0,
        le=0.5,
        description="largest shift of a view, as a share of the image's side",
    )
    gain: float = Field(default=0.15, ge=0, lt=1)
    noise: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="standard deviation of the noise in a view; pixel values run from 0 to 1",
    )


class LearnerConfig(BaseModel):
    """Settings of the learner: all that a fit depends on besides backbone, catalog and support."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: int = Field(default=100, ge=0)
    learning_rate: float = Field(default=1e-2, gt=0)
    images_per_class: int = Field(
        default=2, ge=1, description="images of each category, and of normal, in a training step"
    )
    zero_shot_weight: float = Field(
        default=0.5, ge=0, description="weight of the frozen model's logit in the decision"
    )
    adapter: AdapterConfig = AdapterConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    augment: AugmentConfig = AugmentConfig()
    selection: SelectionConfig = SelectionConfig()
    probe: ProbeConfig = ProbeConfig()


@dataclass(frozen=True)
class SupportImages:
    """The support of one fit: uint8 pixels (N, H, W, 3), labels (N, C), and a key for each image.

    The same image has the same key in every support.
    """

    shots: int
    seed: int
    keys: list[str]
    pixels: np.ndarray
    labels: np.ndarray


def random_generator(*parts: object) -> torch.Generator:
    """A generator seeded with a hash of `parts`: the same numbers on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def augment(image: np.ndarray, key: str, view: int, config: AugmentConfig) -> np.ndarray:
    """View `view` of a uint8 image (H, W, 3); view 0 is the image itself.

    The random changes depend on `key` and `view` alone.
    """
    if view == 0:
        return image
    generator = random_generator("augment", key, view)
    flip, dx, dy, gain = torch.rand(4, generator=generator).tolist()
    height, width = image.shape[:2]
    if config.flip and flip < 0.5:
        image = image[:, ::-1]
    shift_y = round((2 * dy - 1) * config.shift * height)
    shift_x = round((2 * dx - 1) * config.shift * width)
    pad_y, pad_x = abs(shift_y), abs(shift_x)
    padded = np.pad(image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="edge")
    shifted = padded[pad_y + shift_y :, pad_x + shift_x :][:height, :width]
    noise = torch.randn(height, width, 1, generator=generator).numpy() * config.noise * 255
    bright = shifted * (1 + (2 * gain - 1) * config.gain) + noise
    return np.clip(bright + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Cache:
    """Activations of all views of all support images; an image of several supports is in it once.

    `f_in` and `f_frozen` are (images, views, T, D), `patches` (images, views, D), `frozen` (images,
    views, E) the frozen unit embeddings. `rows` has, for each support, the rows of its images.
    `activations` are those of any one batch, for its `call`.
    """

    f_in: torch.Tensor
    f_frozen: torch.Tensor
    patches: torch.Tensor
    frozen: torch.Tensor
    activations: Activations
    rows: list[torch.Tensor]

    def gather(self, images: torch.Tensor, views: torch.Tensor) -> Activations:
        """Activations (S, B, T, D) of images and views, both given as indices (S, B)."""
        return Activations(
            self.f_in[images, views],
            self.f_frozen[images, views],
            self.activations.call,
            patches=self.patches[images, views],
        )


def _encode(model: SignModel, supports: list[SupportImages], config: AugmentConfig) -> _Cache:
    unique: dict[str, np.ndarray] = {}
    for support in supports:
        unique.update(zip(support.keys, support.pixels, strict=True))
    position = {key: row for row, key in enumerate(unique)}
    wanted = [(key, view) for key in unique for view in range(config.views)]
    f_in, f_frozen, patches, frozen = [], [], [], []
    for start in range(0, len(wanted), IMAGES_AT_ONCE):
        some = wanted[start : start + IMAGES_AT_ONCE]
        pixels = np.stack([augment(unique[key], key, view, config) for key, view in some])
        batch = model.backbone.pixels(pixels)
        activations, embeddings = model.image_activations(batch)
        f_in.append(activations.f_in)
        f_frozen.append(activations.f_frozen)
        patches.append(activations.patches)
        frozen.append(embeddings)
    views = (len(unique), config.views)
    return _Cache(
        f_in=torch.cat(f_in).unflatten(0, views),
        f_frozen=torch.cat(f_frozen).unflatten(0, views),
        patches=torch.cat(patches).unflatten(0, views),
        frozen=torch.cat(frozen).unflatten(0, views),
        activations=activations,
        rows=[torch.tensor([position[k] for k in s.keys]) for s in supports],
    )


def _schedule(
    support: SupportImages, config: LearnerConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (steps, B), views (steps, B) and labels (steps, B, C) of one fit's training steps."""
    generator = random_generator("batches", support.shots, support.seed)
    labels = torch.from_numpy(support.labels).float()
    classes = [(labels.sum(1) == 0).nonzero()[:, 0]]
    classes += [labels[:, c].nonzero()[:, 0] for c in range(labels.shape[1])]
    columns = []
    for members in classes:
        draws = torch.rand(config.steps, config.images_per_class, generator=generator)
        columns.append(members[(draws * len(members)).long()])
    images = torch.cat(columns, dim=1)
    views = torch.randint(config.augment.views, images.shape, generator=generator)
    return images, views, labels[images]


def fit_batch(
    backbone: Backbone,
    catalog: Catalog,
    supports: list[SupportImages],
    config: LearnerConfig,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[SignModel, DecisionRule]:
    """Fit adapters and a decision rule to each support, all in one batch.

    The seed dimension S has the order of `supports`. `on_step(step, loss)` is called after every
    step with the mean loss over supports.
    """
    model = SignModel(backbone, catalog, config.adapter, len(supports))
    for index, support in enumerate(supports):
        generator = random_generator("weights", support.shots, support.seed)
        model.image_adapters.initialise(index, generator)
        model.text_adapters.initialise(index, generator)
    cache = _encode(model, supports, config.augment)
    _start_bias(model, cache, supports)
    _optimise(model, cache, supports, config, on_step)
    return model, _decide(model, cache, supports, config)


@torch.no_grad()
def _read_support(own: SignModel, cache: _Cache, index: int, views_wanted: list[int]) -> Readings:
    """Readings (1, V x N, ...) of one fit's support images: all images of a view, view by view.

    `own` is the model of that fit alone (S = 1).
    """
    images = cache.rows[index]
    rows = images.repeat(len(views_wanted))[None]
    views = torch.tensor(views_wanted).repeat_interleave(len(images))[None]
    activations = cache.gather(rows, views)
    return own.read(activations, cache.frozen[rows, views], own.sign_embeddings())


@torch.no_grad()
def _start_bias(model: SignModel, cache: _Cache, supports: list[SupportImages]) -> None:
    uniform = losses.uniform_log_weights(model.membership)
    normal = losses.uniform_log_weights(model.normal)
    for index, support in enumerate(supports):
        z = _read_support(model.seed(index), cache, index, [0]).similarities
        evidence = losses.category_evidence(z, uniform, normal, model.scale)
        labels = torch.from_numpy(support.labels)[None].float()
        model.bias[index] = losses.midpoint_bias(evidence, labels.to(evidence.device))[0]


def _optimise(
    model: SignModel,
    cache: _Cache,
    supports: list[SupportImages],
    config: LearnerConfig,
    on_step: Callable[[int, float], None] | None,
) -> None:
    schedules = [_schedule(s, config) for s in supports]
    images = torch.stack(
        [rows[s[0]] for s, rows in zip(schedules, cache.rows, strict=True)]
    )  # (S, steps, B)
    views = torch.stack([s[1] for s in schedules])
    labels = torch.stack([s[2] for s in schedules]).to(model.bias.device)
    uniform = losses.uniform_log_weights(model.membership)
    normal = losses.uniform_log_weights(model.normal)
    settings = config.objective
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.steps))
    for step in range(config.steps):
        v = model.image_embeddings(cache.gather(images[:, step], views[:, step]))
        t = model.sign_embeddings()
        z = v @ t.transpose(1, 2)
        y = labels[:, step]
        logits = losses.category_evidence(z, uniform, normal, model.scale) - model.bias[:, None]
        loss = losses.category_loss(logits, y)
        if settings.sign_weight:
            loss = loss + settings.sign_weight * losses.sign_loss(
                z, y, model.membership, model.normal, model.scale
            )
        if settings.discrepancy_weight:
            loss = loss + settings.discrepancy_weight * losses.discrepancy_loss(
                v, t, y, model.membership, settings.discrepancy_margin
            )
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        decay.step()
        if on_step:
            on_step(step, float(loss.detach().mean()))


@torch.no_grad()
def _decide(
    model: SignModel, cache: _Cache, supports: list[SupportImages], config: LearnerConfig
) -> DecisionRule:
    """The decision rule of every fit, each from its own support alone."""
    rules = []
    uniform = losses.uniform_log_weights(model.membership)
    normal = losses.uniform_log_weights(model.normal)
    for index, support in enumerate(supports):
        own = model.seed(index)
        labels = torch.from_numpy(support.labels)[None].float().to(model.bias.device)
        first = _read_support(own, cache, index, [0])
        every = _read_support(own, cache, index, list(range(config.augment.views)))
        repeated = labels.repeat(1, config.augment.views, 1)
        auc = pairwise_auc(first.similarities, labels)
        weights = reliability_weights(auc, labels, model.membership, config.selection)
        probe = fit_probe(every.patches[0], repeated[0], support.shots, config.probe)
        rule = DecisionRule.untempered(own, auc, weights, probe[None])
        z0 = first.frozen_similarities
        equally_weighted = losses.category_evidence(z0, uniform, normal, model.scale)
        weighted = rule.frozen_evidence(own, z0, config.selection)
        rule = replace(
            rule,
            frozen_bias=losses.midpoint_bias(weighted, labels),
            trust=backbone_trust(equally_weighted, labels, config.selection),
        )
        logits, _ = rule.evidence(own, every, config.selection, config.zero_shot_weight)
        temperature = fit_temperature(logits, repeated)
        p = torch.sigmoid(logits / temperature[:, None, None])
        rules.append(replace(rule, temperature=temperature, band=undecided_band(p, repeated)))
    names = [field.name for field in fields(DecisionRule)]
    return DecisionRule(**{name: torch.cat([getattr(r, name) for r in rules]) for name in names})
