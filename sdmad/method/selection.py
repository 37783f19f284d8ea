"""Automatic sign selection at inference: [paper] the aim, [choice] the rules.

There is one part for each of two problems of scarce data:

- *under-fitting*: a sign is wrong, or the backbone does not see it. Signs that do not separate the
  support count less (`reliability_weights`), as far as its images agree on which signs these are
  (`agreement`). They are judged by the frozen model, which has not seen the support.
- *uncertain samples*: a sign counts less in an image where it lies below the evidence for normal
  (`image_gate`).

Shapes as in `sdmad.method.losses`.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

POWER = 3.0
"""Of the reliability to which weights are proportional. From 2 to 6 it makes no difference on
development splits; 1 recovers less of what wrong signs cost."""
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


def placements(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share (S, N, C, M) of the images without c whose score is below that of image n.

    Scores are (S, N, M), labels (S, N, C). Ties count half; 0.5 where no image is without c.
    """
    negative = 1 - labels
    at_once = max(1, PAIRS_AT_ONCE // max(1, scores.shape[0] * scores.shape[1] ** 2))
    wins = [
        torch.einsum("smc,snmk->snck", negative, _above(some))
        for some in scores.split(at_once, dim=2)
    ]
    count = negative.sum(1)[:, None, :, None]
    below = torch.cat(wins, dim=3) / count.clamp_min(1)
    return torch.where(count > 0, below, torch.full_like(below, 0.5))


def placed_auc(placed: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """AUC_cs (S, C, M) of every sign for every category: its mean placement (S, N, C, M) over the
    images with c, of labels (S, N, C); 0.5 if there are none."""
    count = labels.sum(1)[..., None]
    mean = torch.einsum("snc,snck->sck", labels, placed) / count.clamp_min(1)
    return torch.where(count > 0, mean, torch.full_like(mean, 0.5))


def pairwise_auc(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """AUC_cs (S, C, M) of every sign for every category, from scores (S, N, M), labels (S, N, C).

    The share of (positive, negative) pairs of images in the right order, ties counting half; 0.5
    if a category has no positive or no negative image.
    """
    return placed_auc(placements(scores, labels), labels)


def agreement(placed: torch.Tensor, labels: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
    """How far the support's images agree on which signs of their category stand out, (S,) in
    [0, 1].

    Cronbach's alpha (Psychometrika 16:297, 1951), with the images of a category as raters of its
    signs and sums over all categories:

        d_ns = P_ncs - mean_s P_ncs
        alpha = sum_cs (sum_{m != n} d_ms d_ns) / (n_c (n_c - 1)) / sum_cs (mean_n d_ns)^2

    P are the placements (S, N, C, M), of which those of signs in S_c and images n with c count. It
    estimates the share of the variance between signs that other images would show again. 0 if no
    category has two images.
    """
    shown = labels[..., None] * membership
    signs = membership.sum(-1)[:, None].clamp_min(1)
    apart = (placed - (placed * membership).sum(-1, keepdim=True) / signs) * shown
    count = labels.sum(1)
    total = apart.sum(1).square().sum(-1)
    pairs = (total - apart.square().sum((1, 3))) / (count * (count - 1)).clamp_min(1)
    again = torch.where(count > 1, pairs, 0.0).sum(1)
    measured = torch.where(count > 1, total / count.clamp_min(1).square(), 0.0).sum(1)
    return (again / measured.clamp_min(1e-12)).clamp(0, 1)


def reliability_weights(
    support_auc: torch.Tensor,
    agreed: torch.Tensor,
    membership: torch.Tensor,
    config: SelectionConfig,
) -> torch.Tensor:
    """Weights w_cs (S, C, M) of the signs of each category, summing to 1; 0 for other signs.

        r_cs = max(AUC_cs - 0.5, floor)^POWER
        w_cs = alpha r_cs / sum_s r_cs + (1 - alpha) / |S_c|

    `support_auc` is AUC_cs (S, C, M), `agreed` alpha (S,), `membership` (C, M). With one image of
    each category nothing can agree, and weights are equal.
    """
    reliability = (support_auc - 0.5).clamp_min(config.floor) ** POWER * membership
    measured = reliability / reliability.sum(-1, keepdim=True)
    uniform = membership / membership.sum(-1, keepdim=True).float()
    return torch.lerp(uniform.expand_as(measured), measured, agreed[:, None, None])


def image_gate(
    similarities: torch.Tensor, normal_evidence: torch.Tensor, config: SelectionConfig
) -> torch.Tensor:
    """log g_s (S, B, M), the log weight of each sign in each image.

        g_s = sigmoid((z_s - A_0 + gate_margin) / gate_width)

    `normal_evidence` is A_0 (S, B).
    """
    alone = similarities - normal_evidence[..., None]
    return torch.nn.functional.logsigmoid((alone + config.gate_margin) / config.gate_width)
