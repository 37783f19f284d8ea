"""Shift Adapters of S seeds on one backbone, and the decision rule that turns signs into scores.

Pure tensors: no files, no Ray. Shapes: S seeds, B images, M signs, P prompts, C categories,
E embedding width.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.backbones.loading import Backbone
from sdmad.backbones.towers import Activations
from sdmad.inputs.catalog import Catalog
from sdmad.method import losses, selection
from sdmad.method.adapter import AdapterConfig, TowerAdapters
from sdmad.method.probe import probe_evidence
from sdmad.method.selection import SelectionConfig


@dataclass(frozen=True)
class Readings:
    """What a model reads in images: all that a decision rule needs of them.

    `similarities` (S, B, M) are cosines of adapted images and signs, `frozen_similarities` (B, M)
    or (S, B, M) those of the frozen model, `patches` (B, D) or (S, B, D) as in `Activations`.
    """

    similarities: torch.Tensor
    frozen_similarities: torch.Tensor
    patches: torch.Tensor


class SignModel(nn.Module):
    """The adapters of S seeds over the signs of one catalog.

    Sign prompts pass the frozen part of the text tower once, when the model is made.
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
        return self.backbone.logit_scale

    def _sign_means(self, prompts: torch.Tensor) -> torch.Tensor:
        """t_s: unit means of unit prompt embeddings (S, P, E) -> (S, M, E)."""
        units = F.normalize(prompts, dim=-1)
        shape = (len(units), len(self.normal), units.shape[-1])
        sums = torch.zeros(shape, device=units.device).index_add(1, self.owner, units)
        return F.normalize(sums, dim=-1)

    def seed(self, index: int) -> "SignModel":
        """One seed as a model of its own (S = 1); gradients do not reach this one."""
        view = copy.copy(self)
        view._modules = dict(self._modules)
        view._parameters = {"bias": nn.Parameter(self.bias[index : index + 1])}
        for name in ("image_adapters", "text_adapters"):
            view._modules[name] = getattr(self, name).seed(index)
        return view

    def sign_embeddings(self) -> torch.Tensor:
        """Adapted sign embeddings t_s (S, M, E)."""
        adapters = self.text_adapters
        return self._sign_means(
            self.backbone.text.suffix(self.prompts, adapters.layers, adapters.seeds)
        )

    def image_embeddings(self, activations: Activations) -> torch.Tensor:
        """Adapted unit image embeddings v (S, B, E)."""
        adapters = self.image_adapters
        embeddings = self.backbone.image.suffix(activations, adapters.layers, adapters.seeds)
        return F.normalize(embeddings, dim=-1)

    def image_activations(
        self, images: torch.Tensor, lean: bool = False
    ) -> tuple[Activations, torch.Tensor]:
        """Prefix of normalised images (B, 3, H, W), and their frozen unit embeddings (B, E), these
        in single precision whatever the tower's."""
        activations = self.backbone.image.prefix(images, self.config.image.blocks, lean)
        if self.config.image.blocks <= 1:
            frozen = self.backbone.image.frozen(activations)
        else:
            frozen = self.backbone.image.run(images)
        return activations, F.normalize(frozen.float(), dim=-1)

    def read(self, activations: Activations, frozen: torch.Tensor, signs: torch.Tensor) -> Readings:
        """Readings of images from their activations, frozen embeddings and the adapted `signs`."""
        return Readings(
            similarities=self.image_embeddings(activations) @ signs.transpose(1, 2),
            frozen_similarities=frozen @ self.frozen_signs.T,
            patches=activations.patches,
        )


@dataclass(frozen=True)
class DecisionRule:
    """What the support decided for S seeds, beside the adapters.

    `bias` b and `frozen_bias` (S, C) are the zero points of the adapted and the frozen evidence,
    `support_auc` (S, C, M) how well each sign separates the support, `weights` (S, C, M) the
    reliability of signs made of it, `trust` (S,) what all signs count beside the probe, `probe`
    (S, C, D + 1) the planes of `sdmad.method.probe`, `temperature` (S,) the slope of the
    probabilities, `band` (S, C, 2) the probabilities that the support leaves undecided.
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
        """The rule before the frozen evidence and the probabilities are fitted to the support."""
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
        """Log weights (S, C, M) of signs within categories."""
        if config.weighs_signs:
            return self.weights.log()
        return losses.uniform_log_weights(model.membership).expand_as(self.weights)

    def frozen_evidence(
        self, model: SignModel, frozen_similarities: torch.Tensor, config: SelectionConfig
    ) -> torch.Tensor:
        """Evidence (S, B, C) of the frozen model, from similarities (B, M) or (S, B, M)."""
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
        """Category logits (S, B, C), and the log evidence of each sign in them (S, B, C, M)."""
        z = model.scale * readings.similarities
        for_normal = losses.soft_maximum(z, losses.uniform_log_weights(model.normal))
        log_weights = self.log_weights(model, config)
        shares = log_weights[:, None].expand(*z.shape[:2], *log_weights.shape[1:])
        if config.gates_images:
            shares = shares + selection.image_gate(
                readings.similarities, for_normal, self.bias, model.scale, config
            )
        by_sign = shares + z[..., None, :]
        logits = torch.logsumexp(by_sign, dim=-1) - for_normal[..., None] - self.bias[:, None]
        if zero_shot_weight:
            frozen = self.frozen_evidence(model, readings.frozen_similarities, config)
            logits = logits + zero_shot_weight * (frozen - self.frozen_bias[:, None])
        if config.weighs_signs:
            logits = self.trust[:, None, None] * logits
        logits = logits + probe_evidence(readings.patches, self.probe)
        return logits / self.temperature[:, None, None], by_sign
