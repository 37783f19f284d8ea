"""The patch probe: a linear model on image features, for what the signs do not describe [choice].

The features are the per-channel maximum over patch tokens of the frozen image tower. Each category
has a ridge regression on them. Its evidence is added to that of the signs, with a weight that
grows with the shots. docs/results.md compares SD-MAD with and without it.

Shapes: N support images (all views), D token width, C categories.
"""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field


class ProbeConfig(BaseModel):
    """Weight and penalty of the patch probe."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight_per_shot: float = Field(
        default=1.5, ge=0, description="weight of the patch probe, in logits per shot; 0: off"
    )
    ridge: float = Field(
        default=0.003,
        gt=0,
        description="ridge penalty of the patch probe; its features have about unit norm",
    )


def fit_probe(
    patches: torch.Tensor, labels: torch.Tensor, shots: int, config: ProbeConfig
) -> torch.Tensor:
    """Planes (C, D + 1), the constant last, from `patches` (N, D) and `labels` (N, C).

    Targets are +1 with the category and -1 without it; both sides have the same total weight. A
    plane separates the support by about `2 weight_per_shot shots` logits. A category that every
    image shows, or none, gets a plane of zeros.
    """
    # Imported here because scoring, which fits nothing, would start a second later.
    from sklearn.linear_model import Ridge

    features = patches.double().cpu().numpy()
    present = labels.bool().cpu().numpy()
    planes = np.zeros((present.shape[1], features.shape[1] + 1))
    if config.weight_per_shot:
        unit = features.std(axis=0).mean() * np.sqrt(features.shape[1]) + 1e-12
        for plane, shown in zip(planes, present.T, strict=True):
            if shown.any() and not shown.all():
                weights = np.where(shown, 0.5 / shown.sum(), 0.5 / (~shown).sum())
                model = Ridge(alpha=config.ridge)
                model.fit(features / unit, np.where(shown, 1.0, -1.0), sample_weight=weights)
                plane[:] = np.append(model.coef_ / unit, model.intercept_)
    return torch.from_numpy(config.weight_per_shot * shots * planes).to(patches)


def probe_evidence(patches: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """q_c, the probe's logits (S, B, C), of patches (B, D) or (S, B, D) by planes (S, C, D + 1)."""
    return patches @ planes[..., :-1].transpose(1, 2) + planes[:, None, :, -1]
