"""Shift Adapters of S seeds on one backbone, and the decision rule from similarities to logits.

Shapes: S seeds, B images, M signs, P prompts, C categories, E embedding width, D token width.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.backbones.loading import Backbone
from sdmad.backbones.towers import Activations
from sdmad.inputs.catalog import Catalog
from sdmad.method import losses, memory, selection
from sdmad.method.adapter import AdapterConfig, TowerAdapters
from sdmad.method.probe import probe_evidence
from sdmad.method.selection import SelectionConfig


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


class SignModel(nn.Module):
    """A backbone with the adapters and biases of S seeds, for the signs of one catalog.

    The frozen part of the text tower runs once, when the model is made. `membership` (C, M) has
    the signs of each category, `normal` (M,) those of normal, `owner` (P,) the sign of each prompt.
    """

    membership: torch.Tensor
    normal: torch.Tensor
    owner: torch.Tensor

    def __init__(
        self, backbone: Backbone, catalog: Catalog, config: AdapterConfig, seeds: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.image_adapters = TowerAdapters(seeds, backbone.image.width, config.image)
        self.text_adapters = TowerAdapters(seeds, backbone.text.width, config.text)
        self.bias = nn.Parameter(torch.zeros(seeds, len(catalog.categories)))
        texts, owner = catalog.texts
        self.prompts = backbone.text.prefix(backbone.tokens(texts), config.text.blocks)
        frozen_prompts = self.prompts
        if config.text.blocks > 1:
            frozen_prompts = backbone.text.prefix(backbone.tokens(texts), 0)
        self.register_buffer("membership", torch.from_numpy(catalog.membership))
        self.register_buffer("normal", torch.from_numpy(catalog.normal_membership))
        self.register_buffer("owner", torch.from_numpy(owner))
        self.to(backbone.device)
        self.frozen_signs = self._sign_means(backbone.text.frozen(frozen_prompts)[None])[0]

    @property
    def scale(self) -> float:
        """tau."""
        return self.backbone.logit_scale

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
        """Activations of normalised images (B, 3, H, W), and their frozen unit embeddings (B, E).

        The embeddings are in single precision, whatever the tower's. `lean` as in `Tower.prefix`.
        """
        activations = self.backbone.image.prefix(images, self.config.image.blocks, lean)
        if self.config.image.blocks <= 1:
            frozen = self.backbone.image.frozen(activations)
        else:
            frozen = self.backbone.image.run(images)
        return activations, F.normalize(frozen.float(), dim=-1)

    def read(self, activations: Activations, frozen: torch.Tensor, signs: torch.Tensor) -> Readings:
        """Readings of images, from their activations, their frozen unit embeddings (B, E) or
        (S, B, E), and the adapted sign embeddings `signs` (S, M, E)."""
        return Readings(
            similarities=self.image_embeddings(activations) @ signs.transpose(1, 2),
            frozen_similarities=frozen @ self.frozen_signs.T,
            patches=activations.patches,
        )


@dataclass(frozen=True)
class DecisionRule:
    """What S seeds learned from their supports, besides the adapters.

    - `bias` b_c and `frozen_bias` b0_c (S, C): subtracted from adapted and zero-shot evidence
    - `support_auc` AUC_cs (S, C, M): how well each sign separates the support
    - `weights` w_cs (S, C, M): the reliability of each sign, from `support_auc`
    - `trust` (S,): the weight of all sign evidence; that of the patch probe is 1
    - `probe` (S, C, D + 1): the planes of `sdmad.method.probe`
    - `temperature` T (S,)
    - `band` (S, C, 2): the ends of the undecided band of `sdmad.method.calibration`
    """

    bias: torch.Tensor
    frozen_bias: torch.Tensor
    support_auc: torch.Tensor
    weights: torch.Tensor
    trust: torch.Tensor
    probe: torch.Tensor
    temperature: torch.Tensor
    band: torch.Tensor

    @staticmethod
    def untempered(
        model: SignModel, support_auc: torch.Tensor, weights: torch.Tensor, probe: torch.Tensor
    ) -> "DecisionRule":
        """The rule before zero-shot bias, trust, temperature and band are fitted."""
        seeds, categories = model.bias.shape
        return DecisionRule(
            bias=model.bias.detach(),
            frozen_bias=torch.zeros_like(model.bias),
            support_auc=support_auc,
            weights=weights,
            trust=torch.ones(seeds, device=weights.device),
            probe=probe,
            temperature=torch.ones(seeds, device=weights.device),
            band=torch.full((seeds, categories, 2), 0.5, device=weights.device),
        )

    def log_weights(self, model: SignModel, config: SelectionConfig) -> torch.Tensor:
        """log w_cs (S, C, M); equal weights without the selection's under-fitting part."""
        if config.weighs_signs:
            return self.weights.log()
        return losses.uniform_log_weights(model.membership).expand_as(self.weights)

    def frozen_evidence(
        self, model: SignModel, frozen_similarities: torch.Tensor, config: SelectionConfig
    ) -> torch.Tensor:
        """Zero-shot evidence e0_c (S, B, C), from similarities (B, M) or (S, B, M)."""
        z0 = frozen_similarities.expand(len(self.bias), *frozen_similarities.shape[-2:])
        normal = losses.uniform_log_weights(model.normal)
        log_weights = self.log_weights(model, config)[:, None]
        return losses.category_evidence(z0, log_weights, normal, model.scale)

    def evidence(
        self,
        model: SignModel,
        readings: Readings,
        config: SelectionConfig,
        zero_shot_weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (S, B, C) of the categories, and the log evidence (S, B, C, M) of each sign.

            logit_c = (trust (e_c - b_c + zero_shot_weight (e0_c - b0_c)) + q_c) / T
            e_c     = log sum_s w_cs g_cs exp(tau z_s) - A_0

        The evidence of a sign is its term of the sum, w_cs g_cs exp(tau z_s); q_c is the probe's.
        Without the selection's under-fitting part, w_cs = 1 / |S_c| and trust = 1; without its
        uncertain-sample part, g_cs = 1.
        """
        scaled = model.scale * readings.similarities
        a_0 = losses.soft_maximum(scaled, losses.uniform_log_weights(model.normal))  # (S, B)
        log_w = self.log_weights(model, config)  # (S, C, M)
        log_wg = log_w[:, None].expand(*scaled.shape[:2], *log_w.shape[1:])  # (S, B, C, M)
        if config.gates_images:
            log_wg = log_wg + selection.image_gate(
                readings.similarities, a_0, self.bias, model.scale, config
            )
        by_sign = log_wg + scaled[..., None, :]
        logits = torch.logsumexp(by_sign, dim=-1) - a_0[..., None] - self.bias[:, None]
        if zero_shot_weight:
            zero_shot = self.frozen_evidence(model, readings.frozen_similarities, config)
            logits = logits + zero_shot_weight * (zero_shot - self.frozen_bias[:, None])
        if config.weighs_signs:
            logits = self.trust[:, None, None] * logits
        logits = logits + probe_evidence(readings.patches, self.probe)
        return logits / self.temperature[:, None, None], by_sign
