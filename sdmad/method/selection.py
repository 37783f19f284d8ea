"""Automatic sign selection at inference: [paper] the aim, [choice] the rules.

There is one part for each of two problems of scarce data:

- *under-fitting*: a sign is wrong, or the backbone does not see it. Signs that do not separate the
  support count less (`reliability_weights`), as far as its images agree on which signs these are
  (`separate`). They are judged by the frozen model.
- *uncertain samples*: a sign counts less in an image where it lies below the evidence for normal
  (`image_gate`).

Shapes as in `sdmad.method.losses`.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Separation:
    """How signs put the images of a support in order, N images, C categories, M signs.

    - `auc` (S, C, M): AUC_cs, the share of pairs of an image with c and one without it in which
      sign s is stronger in the first; ties count half, and it is 0.5 where there is no pair
    - `auc_without` (S, N, C, M): the same without each image
    - `agreed` (S, C): how far the images agree on which signs of c stand out, in [0, 1]
    """

    auc: torch.Tensor
    auc_without: torch.Tensor
    agreed: torch.Tensor


def separate(scores: torch.Tensor, labels: torch.Tensor, membership: torch.Tensor) -> Separation:
    """The separation of a support by scores (S, N, M), with labels (S, N, C).

    Agreement is the estimated correlation of the differences between the signs of a category
    (`membership`, (C, M)), as this support shows them, with the true ones: the root of their
    reliability. With u_njs = 1 if sign s is stronger in image n, with c, than in image j, without
    it, and d_njs = u_njs - mean_s u_njs:

        alpha^2 = sum_cs mean_{n != m, j != k} d_njs d_mks / sum_cs (mean_nj d_njs)^2

    The numerator leaves out products of pairs that share an image, so where signs do not differ its
    mean over supports is 0 (a U-statistic of two samples; Hoeffding, Ann. Math. Stat. 19:293,
    1948). Alpha is at least 0, and one number for all categories; but it is 0 for those with a
    single image on a side.
    """
    others, signs = 1 - labels, membership.to(scores)
    wins = scores.new_zeros(*labels.shape, scores.shape[-1])  # Pairs of each image, (S, N, C, M).
    squares = scores.new_zeros(len(labels), labels.shape[-1])
    some = max(1, PAIRS_AT_ONCE // max(1, scores.numel()))
    for images in range(0, scores.shape[1], some):
        part = slice(images, images + some)
        above, shown = _above(scores[:, part], scores), labels[:, part]
        wins[:, part] += shown[..., None] * torch.einsum("smc,snmk->snck", others, above)
        wins += others[..., None] * torch.einsum("snc,snmk->smck", shown, above)
        apart = above.square() @ signs.T - (above @ signs.T).square() / signs.sum(-1)
        squares += torch.einsum("snc,smc,snmc->sc", shown, others, apart)
    total, pairs = (labels[..., None] * wins).sum(1), labels.sum(1) * others.sum(1)
    left = pairs[:, None] - labels * others.sum(1, True) - others * labels.sum(1, True)
    return Separation(
        auc=_share(total, pairs),
        auc_without=_share(total[:, None] - wins, left),
        agreed=_agreement(total, wins, squares, labels, signs),
    )


def _above(scores: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Whether a score (S, N, M) is above one of `others` (S, K, M), ties counting half:
    (S, N, K, M)."""
    above = (scores[:, :, None] > others[:, None]).to(scores)
    return above + 0.5 * (scores[:, :, None] == others[:, None])


def _share(wins: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    return torch.where(pairs[..., None] > 0, wins / pairs[..., None].clamp_min(1), 0.5)


def _agreement(
    total: torch.Tensor,
    wins: torch.Tensor,
    squares: torch.Tensor,
    labels: torch.Tensor,
    signs: torch.Tensor,
) -> torch.Tensor:
    """alpha (S, C) of `separate`, from the sums of u over all pairs (S, C, M) and over the pairs of
    each image (S, N, C, M), and the sums of d^2 over pairs and signs (S, C)."""

    def squared(sums: torch.Tensor) -> torch.Tensor:
        mean = (sums * signs).sum(-1, keepdim=True) / signs.sum(-1)[:, None]
        return ((sums - mean) * signs).double().square().sum(-1)

    n, m = labels.double().sum(1), (1 - labels).double().sum(1)
    apart = squared(total)
    disjoint = (apart - squared(wins).sum(1) + squares) / (n * (n - 1) * m * (m - 1)).clamp_min(1)
    known = (n > 1) & (m > 1)
    again = torch.where(known, disjoint, 0.0).sum(-1, keepdim=True)
    seen = torch.where(known, apart / (n * m).clamp_min(1).square(), 0.0).sum(-1, keepdim=True)
    alpha = (again / seen.clamp_min(1e-12)).clamp(0, 1).sqrt()
    return torch.where(known, alpha, 0.0).to(total)


def reliability_weights(
    support_auc: torch.Tensor,
    agreed: torch.Tensor,
    membership: torch.Tensor,
    config: SelectionConfig,
) -> torch.Tensor:
    """Weights w_cs (..., C, M) of the signs of each category, summing to 1; 0 for other signs.

        r_cs = max(AUC_cs - 0.5, floor)^POWER
        w_cs = alpha_c r_cs / sum_s r_cs + (1 - alpha_c) / |S_c|

    `support_auc` is AUC_cs (..., C, M), `agreed` alpha (..., C), `membership` (C, M).
    """
    reliability = (support_auc - 0.5).clamp_min(config.floor) ** POWER * membership
    measured = reliability / reliability.sum(-1, keepdim=True)
    uniform = membership / membership.sum(-1, keepdim=True).float()
    return torch.lerp(uniform.expand_as(measured), measured, agreed[..., None])


def image_gate(
    similarities: torch.Tensor, normal_evidence: torch.Tensor, config: SelectionConfig
) -> torch.Tensor:
    """log g_s (S, B, M), the log weight of each sign in each image.

        g_s = sigmoid((z_s - A_0 + gate_margin) / gate_width)

    `normal_evidence` is A_0 (S, B).
    """
    alone = similarities - normal_evidence[..., None]
    return torch.nn.functional.logsigmoid((alone + config.gate_margin) / config.gate_width)
