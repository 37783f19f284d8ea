"""The patch probe: what the support shows beside the signs [choice].

Signs are words, and a catalog lacks some of what distinguishes an anomaly. The probe is a ridge
regression for each category on what the patches of the frozen image tower hold at most, and its
evidence is added to that of the signs. Its weight grows with the shots: with one example it is a
hint, with sixteen it speaks as loud as the signs. docs/results.md has what it is worth.

Shapes: N support images (all views), D token width, C categories.
"""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field


class ProbeConfig(BaseModel):
    """Strength of the probe."""

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

    Images with and without a category weigh the same; targets are +-1, so that a plane separates
    the support by about `2 weight_per_shot shots` logits. A category that no or every image shows
    gets a plane of zeros.
    """
    # Scoring loads this module and fits nothing; scikit-learn would be a second of its start-up.
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
    """Logits (S, B, C) of patches (B, D) or (S, B, D) by planes (S, C, D + 1)."""
    return patches @ planes[..., :-1].transpose(1, 2) + planes[:, None, :, -1]
