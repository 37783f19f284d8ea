"""Automatic sign selection at inference [paper: the aim; choice: the rules].

Two problems of scarce data, one part for each:

- *under-fitting*: signs that the few shots did not teach, or that are wrong. From the support, a
  reliability for each category and sign; unreliable signs weigh less (`reliability_weights`), and
  all of them where the backbone does not know what they mean (`backbone_trust`).
- *uncertain samples*: in each image a sign counts only as far as it beats the evidence for
  normal (`image_gate`).

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
    """AUC of every sign for every category (S, C, M) from scores (S, N, M), labels (S, N, C).

    The share of (positive, negative) pairs in the right order, ties counting half; 0.5 where a
    category has no positive or no negative.
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
    """How far the backbone knows the catalog's signs at all: (S,), 1 in full.

    From the AUC of the frozen model's evidence (S, N, C) on the support, mean over categories:
    nothing was trained on it, so it is an honest one. A backbone that has never seen such images
    is at chance there, and its signs then count `least_trust`.
    """
    own = pairwise_auc(frozen_evidence, labels).diagonal(dim1=1, dim2=2).mean(-1)
    return ((own - 0.5) / (config.full_trust - 0.5)).clamp(config.least_trust, 1)


def reliability_weights(
    support_auc: torch.Tensor,
    labels: torch.Tensor,
    membership: torch.Tensor,
    config: SelectionConfig,
) -> torch.Tensor:
    """Weights w (S, C, M) of the signs within each category, summing to 1; 0 for other signs.

    Reliability is the AUC of a sign on the support (S, C, M) above chance, at least `floor`,
    shrunk towards equal weights as if `prior_shots` further examples had shown all signs to be
    alike.
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
    """Log of the share (S, B, C, M) to which each sign counts for each category in each image.

    A sign alone is worth tau z_s - A_0 - b_c logits; far above `-gate_margin` it counts in full,
    far below not at all.
    """
    alone = (scale * similarities - normal_evidence[..., None])[:, :, None] - bias[:, None, :, None]
    return torch.nn.functional.logsigmoid((alone + config.gate_margin) / config.gate_width)
