"""Training losses: signs aligned with categories, anomalies set apart.

Shapes: S seeds, B images, M signs, C categories, E embedding width. `similarities` z is (S, B, M),
cosines between images and signs; `membership` is (C, M), `normal` (M,), labels y (S, B, C) in
{0, 1}, normal images being all zero. Every loss returns one value for each seed (S,), so that the
sum over seeds trains each as if it were alone. [paper] names the aim, "amplifying inter-anomaly
discrepancy"; all three losses are [choice] (docs/method.md).
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field


class ObjectiveConfig(BaseModel):
    """Weights of the losses beside L_cat (weight 1)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sign_weight: float = Field(default=0.35, ge=0, description="beta, the weight of the sign loss")
    discrepancy_weight: float = Field(
        default=0.0, ge=0, description="gamma, the weight of the discrepancy loss; 0: off"
    )
    discrepancy_margin: float = Field(default=0.3, ge=-1, le=1)


def soft_maximum(scores: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Weighted log-mean-exp over the last dimension: between the mean and the maximum.

    `log_weights` broadcast against `scores`; -inf leaves a sign out. Weights need not sum to 1:
    less weight is less evidence.
    """
    return torch.logsumexp(scores + log_weights, dim=-1)


def uniform_log_weights(membership: torch.Tensor) -> torch.Tensor:
    """Log weights of signs that count alike within their category; -inf for the other signs."""
    weights = membership.float()
    return (weights / weights.sum(-1, keepdim=True)).log()


def category_evidence(
    similarities: torch.Tensor,
    log_weights: torch.Tensor,
    normal_log_weights: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """A_c - A_0, the evidence for each category against normal, before the bias: (S, B, C).

    `log_weights` is (C, M) or (S, 1, C, M), `normal_log_weights` (M,), `scale` is tau.
    """
    scaled = scale * similarities
    for_category = soft_maximum(scaled[..., None, :], log_weights)
    for_normal = soft_maximum(scaled, normal_log_weights)
    return for_category - for_normal[..., None]


def midpoint_bias(evidence: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The value halfway between the mean evidence with and without each category: (S, C)."""
    with_category = (evidence * labels).sum(1) / labels.sum(1).clamp_min(1)
    without = (evidence * (1 - labels)).sum(1) / (1 - labels).sum(1).clamp_min(1)
    return (with_category + without) / 2


def category_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L_cat: binary cross-entropy, images with and without a category weighing the same: (S,)."""
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    positive = (losses * labels).sum(1) / labels.sum(1).clamp_min(1)
    negative = (losses * (1 - labels)).sum(1) / (1 - labels).sum(1).clamp_min(1)
    return (positive + negative).mean(-1) / 2


def sign_loss(
    similarities: torch.Tensor,
    labels: torch.Tensor,
    membership: torch.Tensor,
    normal: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """L_sign: InfoNCE over signs with a bag of positives, those of all categories present: (S,).

    The loss is minus the log of the probability mass on the bag, so that not every positive sign
    must be there; a sign shared with a present category is never a negative.
    """
    bag = labels @ membership.float() > 0
    bag = torch.where((labels.sum(-1) == 0)[..., None], normal.bool(), bag)
    scaled = scale * similarities
    inside = torch.logsumexp(scaled.masked_fill(~bag, float("-inf")), dim=-1)
    return (torch.logsumexp(scaled, dim=-1) - inside).mean(-1)


def discrepancy_loss(
    images: torch.Tensor,
    signs: torch.Tensor,
    labels: torch.Tensor,
    membership: torch.Tensor,
    margin: float,
) -> torch.Tensor:
    """L_disc: cosines above `margin` between prototypes of different categories: (S,).

    Prototypes are the unit means of the embeddings of a category's exclusive signs (S, M, E), and
    of its images (S, B, E); categories without exclusive signs have no sign prototype.
    """
    exclusive = membership & (membership.sum(0, keepdim=True) == 1)
    of_signs = exclusive.float().expand(len(signs), -1, -1) @ signs
    of_images = labels.transpose(1, 2) @ images
    return _crowding(of_signs, margin) + _crowding(of_images, margin)


def _crowding(prototypes: torch.Tensor, margin: float) -> torch.Tensor:
    present = prototypes.norm(dim=-1) > 0
    units = F.normalize(prototypes, dim=-1)
    cosines = units @ units.transpose(1, 2)
    pairs = present[:, :, None] & present[:, None, :]
    pairs = pairs & ~torch.eye(units.shape[1], dtype=torch.bool, device=units.device)
    excess = F.relu(cosines - margin) * pairs
    return excess.sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
