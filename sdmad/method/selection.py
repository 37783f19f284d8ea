"""Automatic sign selection at inference: [paper] the aim, [choice] the rules.

There is one part for each of two problems of scarce data:

- *under-fitting*: a sign is wrong, or the backbone does not see it. Signs that do not separate the
  support count less (`reliability_weights`). They are judged by the frozen model, which has not
  seen the support.
- *uncertain samples*: a sign counts less in an image where it lies below the evidence for normal
  (`image_gate`).

Shapes as in `sdmad.method.losses`.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

# Elements of the tensor of all pairs of images that is in memory at once.
PAIRS_AT_ONCE = 1 << 24


class SelectionConfig(BaseModel):
    """Which parts of the selection are on, and how strong they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Literal["none", "underfit", "uncertain", "both"] = "underfit"
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
        default=1.0,
        description="a sign this far below the evidence for normal counts half in an image, in "
        "deviations",
    )
    gate_width: float = Field(
        default=0.5, gt=0, description="softness of that fading, in deviations; near 0: a hard cut"
    )

    @property
    def weighs_signs(self) -> bool:
        return self.mode in ("underfit", "both")

    @property
    def gates_images(self) -> bool:
        return self.mode in ("uncertain", "both")


def _above(scores: torch.Tensor) -> torch.Tensor:
    """Whether image n has a higher score than image m, ties counting half: (S, N, N, M)."""
    above = (scores[:, :, None] > scores[:, None]).float()
    return above + 0.5 * (scores[:, :, None] == scores[:, None]).float()


def pairwise_auc(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """AUC_cs (S, C, M) of every sign for every category, from scores (S, N, M), labels (S, N, C).

    The share of (positive, negative) pairs of images in the right order, ties counting half; 0.5
    if a category has no positive or no negative image.
    """
    positive, negative = labels, 1 - labels
    count = scores.shape[0] * scores.shape[1] ** 2
    wins = torch.cat(
        [
            torch.einsum("snc,smc,snmk->sck", positive, negative, _above(some))
            for some in scores.split(max(1, PAIRS_AT_ONCE // max(1, count)), dim=2)
        ],
        dim=2,
    )
    pairs = (positive.sum(1) * negative.sum(1))[..., None]
    return torch.where(pairs > 0, wins / pairs.clamp_min(1), torch.full_like(wins, 0.5))


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
    similarities: torch.Tensor, normal_evidence: torch.Tensor, config: SelectionConfig
) -> torch.Tensor:
    """log g_s (S, B, M), the log weight of each sign in each image.

        g_s = sigmoid((z_s - A_0 + gate_margin) / gate_width)

    `normal_evidence` is A_0 (S, B).
    """
    alone = similarities - normal_evidence[..., None]
    return torch.nn.functional.logsigmoid((alone + config.gate_margin) / config.gate_width)
