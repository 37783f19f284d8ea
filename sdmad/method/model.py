"""Shift Adapters of S seeds on one backbone, and the decision rule from similarities to logits.

Shapes: S seeds, B images, M signs, P prompts, C categories, E embedding width, D token width.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from sdmad.backbones.towers import Activations
from sdmad.errors import UserError
from sdmad.inputs.catalog import Catalog
from sdmad.method import losses, memory, selection
from sdmad.method.adapter import AdapterConfig, TowerAdapters
from sdmad.method.calibration import Prevalence, decided
from sdmad.method.probe import probe_evidence
from sdmad.method.selection import SelectionConfig
from sdmad.method.standard import Standard

if TYPE_CHECKING:
    from sdmad.backbones.loading import Backbone


@dataclass(frozen=True)
class Readings:
    """All that a decision rule needs to know of images.

    `similarities` z (S, B, M) are cosine similarities of adapted images and signs,
    `frozen_similarities` (B, M) or (S, B, M) those of the frozen model. `patches` (B, D) or
    (S, B, D) are as in `Activations`.
    """

    similarities: torch.Tensor
    frozen_similarities: torch.Tensor
    patches: torch.Tensor


Share = Annotated[float, Field(gt=0, lt=1)]


class EvidenceConfig(BaseModel):
    """How evidence becomes a decision."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    selection: SelectionConfig = SelectionConfig()
    zero_shot_weight: float = Field(
        default=0.4,
        ge=0,
        description="weight of the frozen model's signs with many shots, before the support is "
        "looked at; 0: off",
    )
    adapted_weight: float = Field(
        default=0.5, ge=0, description="weight of the adapted model's signs with many shots; 0: off"
    )
    gate: float = Field(
        default=0.5,
        ge=0,
        description="exponent of the anomaly probability that multiplies those of categories; "
        "0: off. Where a prevalence is stated it is 1",
    )
    prevalence: Share | dict[str, Share] = Field(
        default=0.5,
        description="share of images that show a category, one number or one for each category; "
        "0.5 states nothing",
    )
    anomaly_prevalence: Share | None = Field(
        default=None,
        description="share of images with any anomaly, beside `prevalence`; by default as if "
        "categories were independent",
    )
    coverage: float = Field(
        default=0.9,
        gt=0.5,
        lt=1,
        description="share of images whose true answer the conformal sets contain",
    )

    def check(self, names: list[str]) -> None:
        """Raise `UserError` if stated prevalences contradict the categories `names`, or another."""
        stated = self.prevalence if isinstance(self.prevalence, dict) else dict.fromkeys(names, 0.5)
        unknown = [name for name in stated if name not in names]
        if unknown:
            raise UserError(
                f"learner.prevalence names {unknown[0]!r}, which is not a category of the sign "
                f"catalog; its categories are {', '.join(names)}"
            )
        missing = [name for name in names if name not in stated]
        if missing:
            raise UserError(
                f"learner.prevalence states no share for {missing[0]!r}; give one for each category"
            )
        if self.anomaly_prevalence is None:
            return
        if self.stated(names) is None:
            raise UserError(
                "learner.anomaly_prevalence needs learner.prevalence, a share for each category"
            )
        shares = self._shares(names)
        if max(shares) > self.anomaly_prevalence:
            raise UserError(
                f"learner.anomaly_prevalence is {self.anomaly_prevalence:g}, but more images than "
                f"that show {names[shares.index(max(shares))]!r} ({max(shares):g})"
            )
        if sum(shares) < self.anomaly_prevalence:
            raise UserError(
                f"learner.anomaly_prevalence is {self.anomaly_prevalence:g}, but the shares of all "
                f"categories add up to {sum(shares):g}, and each of these images shows at least "
                "one of them"
            )

    def stated(self, names: list[str]) -> Prevalence | None:
        """The stated prevalences; None if nothing is stated."""
        if self.prevalence == 0.5:
            return None
        shares = torch.tensor(self._shares(names), dtype=torch.float64)
        anomaly = self.anomaly_prevalence or float(1 - torch.prod(1 - shares))
        return Prevalence(shares.float(), anomaly)

    def _shares(self, names: list[str]) -> list[float]:
        stated = self.prevalence
        return [stated[name] if isinstance(stated, dict) else stated for name in names]


def _check_tokens(texts: list[str], owner: np.ndarray, tokens: torch.Tensor) -> None:
    """Raise `UserError` if the text tower reads two signs as the same tokens (P, L)."""
    seen: dict[bytes, int] = {}
    for row, ids in enumerate(tokens.cpu().numpy()):
        other = seen.setdefault(ids.tobytes(), row)
        if owner[other] != owner[row] and texts[other].casefold() != texts[row].casefold():
            raise UserError(
                f"the backbone's tokenizer makes the same tokens of {texts[other]!r} and "
                f"{texts[row]!r}; the vocabulary of the backbone is missing or does not know these "
                "words, or both texts are longer than the model reads"
            )


class SignModel(nn.Module):
    """A backbone with the adapters and biases of S seeds, for the signs of one catalog.

    The frozen part of the text tower runs once, when the model is made. `membership` (C, M) has
    the signs of each category, `normal` (M,) those of normal, `owner` (P,) the sign of each prompt.
    """

    membership: torch.Tensor
    normal: torch.Tensor
    owner: torch.Tensor

    def __init__(
        self, backbone: "Backbone", catalog: Catalog, config: AdapterConfig, seeds: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.image_adapters = TowerAdapters(seeds, backbone.image.width, config.image)
        self.text_adapters = TowerAdapters(seeds, backbone.text.width, config.text)
        self.bias = nn.Parameter(torch.zeros(seeds, len(catalog.categories)))
        texts, owner = catalog.texts
        _check_tokens(texts, owner, backbone.tokens(texts))
        self.prompts = backbone.text.prefix(backbone.tokens(texts), config.text.blocks)
        frozen_prompts = self.prompts
        if config.text.blocks > 1:
            frozen_prompts = backbone.text.prefix(backbone.tokens(texts), 0)
        self.register_buffer("membership", torch.from_numpy(catalog.membership))
        self.register_buffer("normal", torch.from_numpy(catalog.normal_membership))
        self.names = catalog.category_names
        self.register_buffer("owner", torch.from_numpy(owner))
        self.to(backbone.device)
        self.frozen_signs = self._sign_means(backbone.text.frozen(frozen_prompts)[None])[0]

    def _sign_means(self, prompts: torch.Tensor) -> torch.Tensor:
        """t_s (S, M, E): unit means of the unit embeddings of each sign's prompts (S, P, E)."""
        units = F.normalize(prompts, dim=-1)
        shape = (len(units), len(self.normal), units.shape[-1])
        sums = torch.zeros(shape, device=units.device).index_add(1, self.owner, units)
        return F.normalize(sums, dim=-1)

    def seed(self, index: int) -> "SignModel":
        """One seed as a model of its own (S = 1), as `part`."""
        return self.part(slice(index, index + 1))

    def part(self, seeds: slice) -> "SignModel":
        """Some seeds as a model of their own: the same weights in memory, so that training it
        trains this one, with gradients of its own."""
        view = copy.copy(self)
        view._modules = dict(self._modules)
        view._parameters = {"bias": nn.Parameter(self.bias[seeds].detach())}
        for name in ("image_adapters", "text_adapters"):
            view._modules[name] = getattr(self, name).part(seeds)
        return view

    def sign_embeddings(self) -> torch.Tensor:
        """Adapted sign embeddings t_s (S, M, E)."""
        return self._sign_means(
            memory.adapted(self.backbone.text, self.prompts, self.text_adapters)
        )

    def image_embeddings(self, activations: Activations) -> torch.Tensor:
        """Adapted unit image embeddings v (S, B, E)."""
        embeddings = memory.adapted(self.backbone.image, activations, self.image_adapters)
        return F.normalize(embeddings, dim=-1)

    def image_activations(
        self, images: torch.Tensor, lean: bool = False
    ) -> tuple[Activations, torch.Tensor]:
        """`Backbone.image_activations` for the adapted blocks of this model."""
        return self.backbone.image_activations(images, self.config.image.blocks, lean)

    def read(self, activations: Activations, frozen: torch.Tensor, signs: torch.Tensor) -> Readings:
        """Readings of images, from their activations, their frozen unit embeddings (B, E) or
        (S, B, E), and the adapted sign embeddings `signs` (S, M, E)."""
        return Readings(
            similarities=self.image_embeddings(activations) @ signs.transpose(1, 2),
            frozen_similarities=frozen @ self.frozen_signs.T,
            patches=activations.patches,
        )


@dataclass(frozen=True)
class Evidence:
    """What a decision rule makes of B images: logits, and what they consist of.

    `logits` (S, B, C) are those of the category scores, `anomaly` (S, B) those of the anomaly
    score. `signs` and `appearance` (S, B, H) are the parts of a head's logit that come from signs
    and from the patch probe; H = C + 1, any anomaly last. `terms` (S, B, C, M) are the log evidence
    of each sign in the frozen and in the adapted model, `weights` (S, C, 2) those of both models.
    """

    logits: torch.Tensor
    anomaly: torch.Tensor
    signs: torch.Tensor
    appearance: torch.Tensor
    terms: list[torch.Tensor]
    weights: torch.Tensor

    def shares(self) -> torch.Tensor:
        """The share (S, B, C, M) of each sign in the evidence for a category: that in the frozen
        and that in the adapted model, averaged with the weights of both."""
        weights = self.weights / self.weights.sum(-1, keepdim=True).clamp_min(1e-12)
        frozen, adapted = (torch.softmax(term, dim=-1) for term in self.terms)
        return torch.lerp(frozen, adapted, weights[:, None, :, 1:])


@dataclass(frozen=True)
class DecisionRule:
    """What S seeds learned from their supports, besides the adapters; H = C + 1 heads.

    - `mean`, `deviation` (S, M): the standard of similarities on the support
    - `support_auc` AUC_cs (S, C, M): how well each sign of the frozen model separates the support
    - `weights` w_cs (S, C, M): the reliability of each sign, from `support_auc`
    - `centre`, `spread` (S, 2, H): the standard of the contrasts of frozen and adapted signs
    - `probe` (S, H, D + 1): the planes of `sdmad.method.probe`
    - `parts` (S, H, 3): weights of patch probe, frozen signs and adapted signs; `offset` (S, H)
    - `slopes` (S, H): those of `sdmad.method.combine.fit_slopes`
    - `thresholds` (S, C, 2): those of `sdmad.method.calibration.conformal_thresholds`
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    support_auc: torch.Tensor
    weights: torch.Tensor
    centre: torch.Tensor
    spread: torch.Tensor
    probe: torch.Tensor
    parts: torch.Tensor
    offset: torch.Tensor
    slopes: torch.Tensor
    thresholds: torch.Tensor

    @property
    def standard(self) -> Standard:
        """What centres and scales similarities (S, B, M)."""
        return Standard(self.mean, self.deviation)

    def log_weights(self, model: SignModel, config: SelectionConfig) -> torch.Tensor:
        """log w_cs (S, C, M); equal weights without the selection's under-fitting part."""
        if config.weighs_signs:
            return self.weights.log()
        return losses.uniform_log_weights(model.membership).expand_as(self.weights)

    def voices(
        self, model: SignModel, readings: Readings, config: SelectionConfig
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The contrasts (S, B, H) of the frozen signs and of the adapted ones, and the log evidence
        (S, B, C, M) of each sign in both.

            A_c = log sum_s w_cs g_s exp(z_s)

        The evidence of a sign is its term of the sum, with z_s its similarity in deviations.
        Without the selection's under-fitting part w_cs = 1 / |S_c|, without its uncertain-sample
        part g_s = 1. The weights say which signs tell c from everything else; whether there is any
        anomaly is asked of all signs alike, with w_cs = 1 / |S_c|.
        """
        weights = self.log_weights(model, config)[:, None]
        read = (readings.frozen_similarities, readings.similarities)
        found = [self.voice(model, similarities, weights, config) for similarities in read]
        return [voice for voice, _ in found], [terms for _, terms in found]

    def voice(
        self,
        model: SignModel,
        similarities: torch.Tensor,
        log_weights: torch.Tensor,
        config: SelectionConfig,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The contrasts and the log evidence of `voices`, of one model's similarities (S, B, M),
        with log w_cs (S, 1, C, M) or those of each image (S, B, C, M)."""
        z = self.standard.apply(similarities)
        normal = losses.soft_maximum(z, losses.uniform_log_weights(model.normal))
        if config.gates_images:
            z = z + selection.image_gate(z, normal, config)
        terms = log_weights + z[..., None, :]
        every = losses.equal_soft_maxima(z, model.membership)
        return contrasts(torch.logsumexp(terms, -1), every, normal), terms

    def evidence(
        self,
        model: SignModel,
        readings: Readings,
        config: EvidenceConfig,
        select: SelectionConfig | None = None,
    ) -> Evidence:
        """The evidence of images, with the selection of `config` or with another.

            l_h = a_h probe_h + b_h frozen_h + d adapted_h + offset_h

        Logits of p_c and p_any are those of `sdmad.method.calibration.decided`, at the prevalence
        of `config`.
        """
        voices, terms = self.voices(model, readings, select or config.selection)
        scaled = [
            Standard(self.centre[:, k], self.spread[:, k]).apply(voice)
            for k, voice in enumerate(voices)
        ]
        parts = self.parts[:, None]
        signs = parts[..., 1] * scaled[0] + parts[..., 2] * scaled[1]
        appearance = parts[..., 0] * probe_evidence(readings.patches, self.probe)
        heads = signs + appearance + self.offset[:, None]
        stated = config.stated(model.names)
        logits, anomaly = decided(heads, config.gate, stated, self.slopes[:, None])
        return Evidence(logits, anomaly, signs, appearance, terms, self.parts[:, :-1, 1:])


def contrasts(categories: torch.Tensor, every: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Contrasts (..., H) of the evidence for C categories (..., C) and for normal (...).

        category c:    A_c - mean of A of the other categories
        any anomaly:   max_c A'_c - A_0

    `every` A'_c is the evidence of the categories with all signs alike. The signs of a category are
    compared with those of other anomalies, and the gate with normal. With one category both ask
    the same: A_c - A_0.
    """
    count = categories.shape[-1]
    if count == 1:
        return (categories - normal[..., None]).repeat_interleave(2, dim=-1)
    others = (categories.sum(-1, keepdim=True) - categories) / (count - 1)
    any_anomaly = every.amax(-1, keepdim=True) - normal[..., None]
    return torch.cat([categories - others, any_anomaly], dim=-1)
