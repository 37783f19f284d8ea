"""Automatic sign selection at inference: [paper] the aim, [choice] the rules.

There is one part for each of two problems of scarce data:

- *under-fitting*: a sign is wrong, or the few shots did not teach it. Signs that do not separate
  the support count less (`reliability_weights`). If the frozen backbone does not separate the
  support, all sign evidence counts less and the patch probe decides (`backbone_trust`).
- *uncertain samples*: a sign counts less in an image where, alone, it lies below the evidence for
  normal and the bias (`image_gate`).

Shapes as in `sdmad.method.losses`.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field


class SelectionConfig(BaseModel):
    """Which parts of the selection are on, and how strong they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["none", "underfit", "uncertain", "both"] = "both"
    floor: float = Field(
        default=0.02,
        gt=0,
        le=0.5,
        description="minimum reliability of a sign (its AUC on the support minus 0.5)",
    )
    prior_shots: float = Field(
        default=0.5,
        ge=0,
        description="pull of the weights towards equal weights, in shots; 0: none",
    )
    gate_margin: float = Field(
        default=2.0,
        description="a sign this many logits below the evidence for normal counts half in an image",
    )
    gate_width: float = Field(
        default=1.0, gt=0, description="softness of that fading, in logits; near 0: a hard cut"
    )
    full_trust: float = Field(
        default=0.8,
        gt=0.5,
        le=1,
        description="zero-shot AUC on the support from which sign evidence counts in full",
    )
    least_trust: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="minimum weight of all sign evidence, when that AUC is near 0.5",
    )

    @property
    def weighs_signs(self) -> bool:
        return self.mode in ("underfit", "both")

    @property
    def gates_images(self) -> bool:
        return self.mode in ("uncertain", "both")


def pairwise_auc(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """AUC_cs (S, C, M) of every sign for every category, from scores (S, N, M), labels (S, N, C).

    The share of (positive, negative) pairs of images in the right order, ties counting half; 0.5
    if a category has no positive or no negative image.
    """
    above = (scores[:, :, None] > scores[:, None]).float()
    above = above + 0.5 * (scores[:, :, None] == scores[:, None]).float()  # (S, N, N, M)
    positive, negative = labels, 1 - labels
    wins = torch.einsum("snc,smc,snmk->sck", positive, negative, above)
    pairs = (positive.sum(1) * negative.sum(1))[..., None]
    return torch.where(pairs > 0, wins / pairs.clamp_min(1), torch.full_like(wins, 0.5))


def backbone_trust(
    frozen_evidence: torch.Tensor, labels: torch.Tensor, config: SelectionConfig
) -> torch.Tensor:
    """The weight (S,) of all sign evidence, from `least_trust` to 1.

        trust = (AUC_0 - 0.5) / (full_trust - 0.5), but at least least_trust and at most 1

    AUC_0 is that of the zero-shot evidence (S, N, C) on the support, averaged over categories.
    Nothing was trained for it, so it is not optimistic.
    """
    own = pairwise_auc(frozen_evidence, labels).diagonal(dim1=1, dim2=2).mean(-1)
    return ((own - 0.5) / (config.full_trust - 0.5)).clamp(config.least_trust, 1)


def reliability_weights(
    support_auc: torch.Tensor,
    labels: torch.Tensor,
    membership: torch.Tensor,
    config: SelectionConfig,
) -> torch.Tensor:
    """Weights w_cs (S, C, M) of the signs of each category, summing to 1; 0 for other signs.

        r_cs = max(AUC_cs - 0.5, floor)
        w_cs = (n_c r_cs / sum_s r_cs + prior_shots / |S_c|) / (n_c + prior_shots)

    n_c is the number of support images with c, so fewer shots are closer to equal weights.
    `support_auc` is AUC_cs (S, C, M), `labels` (S, N, C), `membership` (C, M).
    """
    reliability = (support_auc - 0.5).clamp_min(config.floor)
    reliability = reliability * membership
    measured = reliability / reliability.sum(-1, keepdim=True)
    uniform = membership / membership.sum(-1, keepdim=True).float()
    shots = labels.sum(1)[..., None]
    return (shots * measured + config.prior_shots * uniform) / (shots + config.prior_shots)


def image_gate(
    similarities: torch.Tensor,
    normal_evidence: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
    config: SelectionConfig,
) -> torch.Tensor:
    """log g_cs (S, B, C, M), the log weight of each sign for each category in each image.

        g_cs = sigmoid((tau z_s - A_0 - b_c + gate_margin) / gate_width)

    tau z_s - A_0 - b_c is the logit of c if s were its only sign. `normal_evidence` is A_0 (S, B),
    `bias` b_c (S, C), `scale` tau.
    """
    alone = (scale * similarities - normal_evidence[..., None])[:, :, None] - bias[:, None, :, None]
    return torch.nn.functional.logsigmoid((alone + config.gate_margin) / config.gate_width)
