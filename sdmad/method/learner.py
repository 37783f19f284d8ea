"""Fit Shift Adapters and decision rules to few-shot supports, several in one batch.

    model, rule = fit_batch(backbone, catalog, supports, LearnerConfig())

The randomness of a fit (initial weights, batches, augmentation) comes from its shots, its seed and
the names of its images, so a fit does not depend on the other fits in its batch.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from sdmad.backbones.towers import Activations
from sdmad.inputs.catalog import Catalog
from sdmad.method import losses, memory
from sdmad.method.adapter import AdapterConfig
from sdmad.method.augment import AugmentConfig, SupportImages, random_generator
from sdmad.method.calibration import conformal_thresholds, decided
from sdmad.method.combine import fit_slopes, fit_weights, prior_weights
from sdmad.method.losses import ObjectiveConfig
from sdmad.method.model import DecisionRule, EvidenceConfig, Readings, SignModel
from sdmad.method.probe import ProbeConfig, fit_probe, with_any
from sdmad.method.selection import reliability_weights, separate
from sdmad.method.standard import Standard, fit_standard, pooled_standard
from sdmad.method.views import SupportCache, encode, groups_in_memory

if TYPE_CHECKING:
    from sdmad.backbones.loading import Backbone


class LearnerConfig(EvidenceConfig):
    """Settings of the learner: all that a fit depends on besides backbone, catalog and support."""

    category_names: bool = Field(
        default=True, description="whether the name of a category counts as one of its signs"
    )
    steps: int = Field(default=100, ge=0)
    learning_rate: float = Field(default=1e-2, gt=0)
    images_per_class: int = Field(
        default=2, ge=1, description="images of each category, and of normal, in a training step"
    )
    adapter: AdapterConfig = AdapterConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    augment: AugmentConfig = AugmentConfig()
    probe: ProbeConfig = ProbeConfig()

    def chosen_signs(self, catalog: Catalog) -> Catalog:
        """The catalog whose signs are fitted."""
        return catalog.with_names() if self.category_names else catalog

    def for_catalog(self, catalog: Catalog) -> "LearnerConfig":
        """With what the catalog says where this configuration is silent: flips."""
        return self.model_copy(update={"augment": self.augment.chosen(catalog.flip)})


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
    backbone: "Backbone",
    catalog: Catalog,
    supports: list[SupportImages],
    config: LearnerConfig,
    on_step: Callable[[int, float], None] | None = None,
    encoder: Callable[[SignModel, list[SupportImages], AugmentConfig], SupportCache] = encode,
) -> tuple[SignModel, DecisionRule]:
    """Fit adapters and a decision rule to each support, all in one batch.

    `encoder` is for callers who fit the same supports again and keep what `encode` gave.
    `on_step(step, mean loss)` is called after every step, where memory does not hold the tokens of
    all supports for each group of fits in turn.
    """
    config = config.for_catalog(catalog)
    model = SignModel(backbone, catalog, config.adapter, len(supports))
    for index, support in enumerate(supports):
        generator = random_generator("weights", support.shots, support.seed)
        model.image_adapters.initialise(index, generator)
        model.text_adapters.initialise(index, generator)
    rules = []
    for fits in groups_in_memory(model, supports, config.augment):
        # The same weights in memory: what is trained here is trained in `model`.
        some, theirs = model.part(fits), supports[fits]
        cache = encoder(some, theirs, config.augment)
        standard = _start(some, cache, theirs)
        _optimise(some, cache, theirs, standard, config, on_step)
        rules += _decide(some, cache, theirs, standard, config)
    names = [field.name for field in fields(DecisionRule)]
    joined = {name: torch.cat([getattr(rule, name) for rule in rules]) for name in names}
    return model, DecisionRule(**joined)


@torch.no_grad()
def _read_support(
    own: SignModel, cache: SupportCache, index: int, views_wanted: list[int]
) -> Readings:
    """Readings (1, V x N, ...) of one fit's support images, view by view.

    `own` is the model of that fit alone (S = 1).
    """
    images = cache.images[index]
    views = torch.tensor(views_wanted).repeat_interleave(len(images))
    rows = cache.rows(images.repeat(len(views_wanted)), views)[None]
    signs = own.sign_embeddings()
    row_bytes = memory.row_bytes(cache.views.like, own.config.image.blocks, training=False)
    readings = []
    for some in memory.parts(rows.shape[1], memory.TOKENS_AT_ONCE // row_bytes):
        few = rows[:, some]
        readings.append(own.read(cache.views.take(few), cache.views.frozen[few], signs))
    names = [field.name for field in fields(Readings)]
    return Readings(**{name: torch.cat([getattr(r, name) for r in readings], 1) for name in names})


@torch.no_grad()
def _start(model: SignModel, cache: SupportCache, supports: list[SupportImages]) -> Standard:
    """The standard (S, M) of the frozen similarities; biases start at the support's midpoint."""
    uniform = losses.uniform_log_weights(model.membership)
    normal = losses.uniform_log_weights(model.normal)
    found = []
    for index, support in enumerate(supports):
        readings = _read_support(model.seed(index), cache, index, [0])
        standard = pooled_standard(readings.frozen_similarities)
        labels = torch.from_numpy(support.labels)[None].float().to(model.bias.device)
        z = standard.apply(readings.similarities)
        evidence = losses.category_evidence(z, uniform, normal)
        model.bias[index] = losses.midpoint_bias(evidence, labels)[0]
        found.append(standard)
    return Standard(
        torch.cat([standard.mean for standard in found]),
        torch.cat([standard.deviation for standard in found]),
    )


def _optimise(
    model: SignModel,
    cache: SupportCache,
    supports: list[SupportImages],
    standard: Standard,
    config: LearnerConfig,
    on_step: Callable[[int, float], None] | None,
) -> None:
    schedules = [_schedule(s, config) for s in supports]
    rows = torch.stack(
        [cache.rows(i[s[0]], s[1]) for s, i in zip(schedules, cache.images, strict=True)]
    )  # (S, steps, B)
    labels = torch.stack([s[2] for s in schedules]).to(model.bias.device)
    at_once = _seeds_at_once(model, cache, rows.shape[-1])
    trained = [
        (seeds, _Training(model.part(seeds), standard[seeds], config))
        for seeds in memory.parts(len(supports), at_once)
    ]
    for step in range(config.steps):
        means = []
        for seeds, training in trained:
            activations = cache.views.take(rows[seeds, step])
            means.append(training.step(activations, labels[seeds, step]))
        if on_step:
            on_step(step, float(torch.cat(means).mean()))


def _seeds_at_once(model: SignModel, cache: SupportCache, images: int) -> int:
    """How many seeds with `images` images each make a step within the budget of tokens."""
    text, image = model.config.text.blocks, model.config.image.blocks
    row_bytes = images * memory.row_bytes(cache.views.like, image, training=True)
    row_bytes += len(model.prompts.f_in) * memory.row_bytes(model.prompts, text, training=True)
    return memory.TOKENS_AT_ONCE // row_bytes


class _Training:
    """The training of some seeds: losses of seeds are added, so each trains as if alone."""

    def __init__(self, model: SignModel, standard: Standard, config: LearnerConfig) -> None:
        self.model = model
        self.standard = standard
        self.settings = config.objective
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.decay = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, max(1, config.steps)
        )
        self.uniform = losses.uniform_log_weights(model.membership)
        self.normal = losses.uniform_log_weights(model.normal)

    def step(self, activations: Activations, y: torch.Tensor) -> torch.Tensor:
        """One step from images and their labels (S, B, C); the losses of the seeds (S,)."""
        loss = self.loss(activations, y)
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()
        self.decay.step()
        return loss.detach()

    def loss(self, activations: Activations, y: torch.Tensor) -> torch.Tensor:
        model, settings = self.model, self.settings
        v = model.image_embeddings(activations)
        t = model.sign_embeddings()
        z = self.standard.apply(v @ t.transpose(1, 2))
        evidence = losses.category_evidence(z, self.uniform, self.normal)
        loss = losses.category_loss(evidence - model.bias[:, None], y)
        if settings.sign_weight:
            loss = loss + settings.sign_weight * losses.sign_loss(
                z, y, model.membership, model.normal
            )
        if settings.discrepancy_weight:
            loss = loss + settings.discrepancy_weight * losses.discrepancy_loss(
                v, t, y, model.membership, settings.discrepancy_margin
            )
        return loss


@torch.no_grad()
def _decide(
    model: SignModel,
    cache: SupportCache,
    supports: list[SupportImages],
    standard: Standard,
    config: LearnerConfig,
) -> list[DecisionRule]:
    """The decision rule of every fit, from its own support alone."""
    return [
        _decide_one(
            model.seed(index),
            _read_support(model.seed(index), cache, index, [0]),
            standard[index : index + 1],
            support,
            config,
        )
        for index, support in enumerate(supports)
    ]


def _decide_one(
    model: SignModel,
    readings: Readings,
    standard: Standard,
    support: SupportImages,
    config: LearnerConfig,
) -> DecisionRule:
    """The decision rule of a model of one seed, from readings (1, N, ...) of its support.

    Weights of the parts, slopes and thresholds come from predictions for left-out images, in which
    the frozen signs, weighed without the image, stand in for the adapted ones.
    """
    labels = torch.from_numpy(support.labels).float().to(model.bias.device)
    found = separate(readings.frozen_similarities, labels[None], model.membership)

    def weights_of(auc: torch.Tensor, agreed: torch.Tensor) -> torch.Tensor:
        return reliability_weights(auc, agreed, model.membership, config.selection)

    shots = support.shots if isinstance(support.shots, int) else None
    probe = fit_probe(readings.patches[0], labels, shots, config.probe)
    heads = labels.shape[1] + 1
    rule = DecisionRule(
        mean=standard.mean,
        deviation=standard.deviation,
        support_auc=found.auc,
        weights=weights_of(found.auc, found.agreed),
        centre=torch.zeros(1, 2, heads, device=labels.device),
        spread=torch.ones(1, 2, heads, device=labels.device),
        probe=probe.planes[None],
        parts=torch.zeros(1, heads, 3, device=labels.device),
        offset=torch.zeros(1, heads, device=labels.device),
        slopes=torch.ones(1, heads, device=labels.device),
        thresholds=torch.zeros(1, heads - 1, 2, device=labels.device),
    )
    voices, _ = rule.voices(model, readings, config.selection)
    if config.selection.weighs_signs:
        left_out = weights_of(found.auc_without, found.agreed[:, None]).log()
        voices[0], _ = rule.voice(model, readings.frozen_similarities, left_out, config.selection)
    scales = [fit_standard(voice, prior=1.0) for voice in voices]
    frozen = scales[0].apply(voices[0])[0]
    prior = prior_weights(
        heads - 1,
        shots or _typical_shots(labels),
        config.probe.weight,
        config.zero_shot_weight,
        config.adapted_weight,
    )
    targets = with_any(labels)
    fitted = fit_weights(probe.held_out, frozen, targets, prior)
    parts = torch.cat([fitted.parts, fitted.parts.new_full((heads, 1), prior.adapted)], dim=1)
    parts, offset = parts.to(labels), fitted.offset.to(labels)
    signs = (parts[:, 1] + parts[:, 2]) * frozen + offset
    held_out = signs + torch.where(parts[:, 0] > 0, parts[:, 0] * probe.held_out, 0.0)
    slopes = fit_slopes(held_out, targets).to(labels)
    return replace(
        rule,
        centre=torch.stack([scale.mean for scale in scales], dim=1),
        spread=torch.stack([scale.deviation for scale in scales], dim=1),
        parts=parts[None],
        offset=offset[None],
        slopes=slopes[None],
        thresholds=_thresholds(held_out, signs, slopes, labels, config, model.names)[None],
    )


def _thresholds(
    held_out: torch.Tensor,
    signs: torch.Tensor,
    slopes: torch.Tensor,
    labels: torch.Tensor,
    config: LearnerConfig,
    names: list[str],
) -> torch.Tensor:
    """The thresholds (C, 2) from logits (N, H) for left-out images and the part of their signs.

    Where a head cannot leave an image out, its signs speak alone in the logits of other heads, and
    its own thresholds go without the image.
    """
    known = held_out.isfinite()
    heads = held_out.where(known, signs)
    logits, _ = decided(heads, config.gate, config.stated(names), slopes)
    return conformal_thresholds(logits.where(known[:, :-1], torch.nan), labels, config.coverage)


def _typical_shots(labels: torch.Tensor) -> float:
    """The median over heads of the number of images on the smaller side, for labels (N, C)."""
    shown = with_any(labels).sum(0)
    return float(torch.minimum(shown, len(labels) - shown).clamp_min(1).median())
