"""The patch probe: ridge regressions on what a catalog does not describe [choice].

Features are the per-channel maximum over patch tokens of the frozen image tower, standardised on
the support. There is one regression, a *head*, for each category (images with it against images
without it) and one for *any anomaly* (against normal images). For every support image there is
also the output of the heads fitted without that image; weights of the evidence and thresholds come
from these (`sdmad.method.combine`).

Shapes: N support images, D token width, H = C + 1 heads, any anomaly last.
"""

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field

from sdmad.method.standard import fit_standard


class ProbeConfig(BaseModel):
    """Weight and penalty of the patch probe."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: float = Field(
        default=3.0,
        ge=0,
        description="weight of the patch probe with many shots, before the support is looked at, "
        "in logits; 0: off",
    )
    ridge: float = Field(
        default=0.1,
        gt=0,
        description="ridge penalty at one shot; with K shots it is divided by the root of K",
    )


@dataclass(frozen=True)
class Probe:
    """Planes (H, D + 1), the constant last, and the outputs (N, H) without each image itself.

    An output is NaN where no head can be fitted without the image: it is the only one of its kind.
    """

    planes: torch.Tensor
    held_out: torch.Tensor


def with_any(labels: torch.Tensor) -> torch.Tensor:
    """Targets of all heads (..., H): the labels (..., C), and whether there is any anomaly."""
    return torch.cat([labels, labels.amax(-1, keepdim=True)], dim=-1)


def fit_probe(
    patches: torch.Tensor, labels: torch.Tensor, shots: int | None, config: ProbeConfig
) -> Probe:
    """Fit all heads to `patches` (N, D) and `labels` (N, C).

    Targets are +1 and -1; both sides of a head have the same total weight, which sums to 1. A head
    that has images of one side only is a plane of zeros. Without a number of `shots`, a head has
    those of its smaller side.
    """
    values = patches.double()
    standard = fit_standard(values)
    width = values.shape[1] ** 0.5
    features = standard.apply(values) / width
    targets = 2 * with_any(labels).double() - 1
    planes = values.new_zeros(targets.shape[1], values.shape[1] + 1)
    held_out = torch.full_like(targets, float("nan"))
    for head, target in enumerate(targets.T):
        shown = target > 0
        if shown.all() or not shown.any():
            continue
        smaller = min(int(shown.sum()), int((~shown).sum()))
        penalty = config.ridge / (smaller if shots is None else shots) ** 0.5
        slope, constant, _ = _ridge(features, target, _balanced(shown), penalty)
        slope = slope / (width * standard.deviation)
        planes[head] = torch.cat([slope, (constant - slope @ standard.mean)[None]])
        for side in (shown, ~shown):
            if side.sum() > 1:
                held_out[side, head] = _without(features, target, side, penalty)[side]
    return Probe(planes.to(patches), held_out.to(patches))


def probe_evidence(patches: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Outputs (S, B, H) of the heads, of patches (B, D) or (S, B, D) by planes (S, H, D + 1)."""
    return patches @ planes[..., :-1].transpose(1, 2) + planes[:, None, :, -1]


def _balanced(shown: torch.Tensor, without_one_of: torch.Tensor | None = None) -> torch.Tensor:
    """Weights (N,) by which both sides weigh 1/2; with `without_one_of`, once that side has lost
    an image."""
    weights = torch.zeros(len(shown), dtype=torch.float64, device=shown.device)
    for side in (shown, ~shown):
        lost = without_one_of is not None and torch.equal(side, without_one_of)
        weights[side] = 0.5 / (int(side.sum()) - lost)
    return weights


def _ridge(
    features: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, penalty: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slope (D,), constant, and leverages (N,) of a weighted ridge with a free constant.

    It is solved in the space of the N images, of which there are fewer than channels.
    """
    total = weights.sum()
    mean, middle = weights @ features / total, weights @ target / total
    root = weights.sqrt()
    centred = (features - mean) * root[:, None]
    gram = centred @ centred.T
    inverse = torch.linalg.inv(gram + penalty * torch.eye(len(gram)).to(gram))
    slope = centred.T @ (inverse @ (root * (target - middle)))
    leverages = ((gram @ inverse).diagonal() + weights / total).clamp(max=1 - 1e-9)
    return slope, middle - mean @ slope, leverages


def _without(
    features: torch.Tensor, target: torch.Tensor, side: torch.Tensor, penalty: float
) -> torch.Tensor:
    """Outputs (N,) of heads fitted without each image of `side`, in closed form.

    The weights are those after the loss, and the image has the weight of its side; then the
    residual without it is its residual divided by 1 - its leverage (e.g. Hastie et al., The
    Elements of Statistical Learning, eq. 7.64), exactly.
    """
    weights = _balanced(target > 0, without_one_of=side)
    slope, constant, leverages = _ridge(features, target, weights, penalty)
    residual = target - features @ slope - constant
    return target - residual / (1 - leverages)
