"""Training losses: they align signs with categories and set anomalies apart.

[paper] The aim is "amplifying inter-anomaly discrepancy". [choice] All three losses
(docs/method.md).

Shapes: S seeds, B images, M signs, C categories, E embedding width. `similarities` z (S, B, M) are
similarities of images and signs in deviations (`sdmad.method.standard`). `membership` is (C, M),
`normal` (M,), labels y (S, B, C) are in {0, 1}; a normal image has y = 0. Every loss returns one
value for each seed, (S,). Their sum trains each seed as if it were alone.
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field


class ObjectiveConfig(BaseModel):
    """Weights of the losses: L = L_cat + beta L_sign + gamma L_disc."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sign_weight: float = Field(default=0.35, ge=0, description="beta, the weight of the sign loss")
    discrepancy_weight: float = Field(
        default=0.0, ge=0, description="gamma, the weight of the discrepancy loss; 0: off"
    )
    discrepancy_margin: float = Field(default=0.3, ge=-1, le=1)


def soft_maximum(scores: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Weighted log-mean-exp over the last dimension, between the mean and the maximum.

    `log_weights` broadcast against `scores`; -inf leaves a sign out. Weights that sum to less than
    1 lower the result.
    """
    return torch.logsumexp(scores + log_weights, dim=-1)


def equal_soft_maxima(scores: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
    """log mean_{s in S_c} exp(z_s) of every category (..., C), from scores (..., M) and membership
    (C, M).

    `soft_maximum` with `uniform_log_weights`, as a matrix product, which is faster. Its values end
    87 below the largest score, where those of the exponential in single precision do.
    """
    top = scores.amax(-1, keepdim=True)
    shares = membership / membership.sum(-1, keepdim=True).float()
    means = (scores - top).exp() @ shares.to(scores).T
    return top + means.clamp_min(torch.finfo(scores.dtype).tiny).log()


def uniform_log_weights(membership: torch.Tensor) -> torch.Tensor:
    """Log of equal weights for the signs of each category, summing to 1; -inf for other signs."""
    weights = membership.float()
    return (weights / weights.sum(-1, keepdim=True)).log()


def category_evidence(
    similarities: torch.Tensor,
    log_weights: torch.Tensor,
    normal_log_weights: torch.Tensor,
) -> torch.Tensor:
    """e_c = A_c - A_0 (S, B, C), the evidence for each category against normal, without bias.

    `log_weights` are (C, M) or (S, 1, C, M), `normal_log_weights` (M,).
    """
    for_category = soft_maximum(similarities[..., None, :], log_weights)
    for_normal = soft_maximum(similarities, normal_log_weights)
    return for_category - for_normal[..., None]


def midpoint_bias(evidence: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The midpoint (S, C) of the mean evidence of images with and without each category."""
    with_category = (evidence * labels).sum(1) / labels.sum(1).clamp_min(1)
    without = (evidence * (1 - labels)).sum(1) / (1 - labels).sum(1).clamp_min(1)
    return (with_category + without) / 2


def category_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L_cat (S,): class-balanced binary cross-entropy of sigmoid(logits).

    For each category, images with it and images without it have the same total weight.
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    positive = (losses * labels).sum(1) / labels.sum(1).clamp_min(1)
    negative = (losses * (1 - labels)).sum(1) / (1 - labels).sum(1).clamp_min(1)
    return (positive + negative).mean(-1) / 2


def sign_loss(
    similarities: torch.Tensor,
    labels: torch.Tensor,
    membership: torch.Tensor,
    normal: torch.Tensor,
) -> torch.Tensor:
    """L_sign (S,): InfoNCE of an image against all signs, with a bag of positives.

    The positives are the signs of all categories in the image, or those of normal. The loss is
    minus the log of their summed probability, so not every positive sign must be visible. A sign
    of a present category is never a negative, even if an absent category shares it.
    """
    bag = labels @ membership.float() > 0
    bag = torch.where((labels.sum(-1) == 0)[..., None], normal.bool(), bag)
    inside = torch.logsumexp(similarities.masked_fill(~bag, float("-inf")), dim=-1)
    return (torch.logsumexp(similarities, dim=-1) - inside).mean(-1)


def discrepancy_loss(
    images: torch.Tensor,
    signs: torch.Tensor,
    labels: torch.Tensor,
    membership: torch.Tensor,
    margin: float,
) -> torch.Tensor:
    """L_disc (S,): cosine similarity above `margin` between prototypes of different categories.

    A category has two prototypes: the unit mean of the signs that only it has, from `signs`
    (S, M, E), and the unit mean of its images, from `images` (S, B, E). A category without such
    signs or images lacks that prototype.
    """
    exclusive = membership & (membership.sum(0, keepdim=True) == 1)
    of_signs = exclusive.float().expand(len(signs), -1, -1) @ signs
    of_images = labels.transpose(1, 2) @ images
    return _crowding(of_signs, margin) + _crowding(of_images, margin)


def _crowding(prototypes: torch.Tensor, margin: float) -> torch.Tensor:
    """Mean over pairs of prototypes (S, C, E) of the cosine similarity above `margin`: (S,)."""
    present = prototypes.norm(dim=-1) > 0
    units = F.normalize(prototypes, dim=-1)
    cosines = units @ units.transpose(1, 2)
    pairs = present[:, :, None] & present[:, None, :]
    pairs = pairs & ~torch.eye(units.shape[1], dtype=torch.bool, device=units.device)
    excess = F.relu(cosines - margin) * pairs
    return excess.sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
