"""How much each part of the evidence weighs: logistic regressions on images left out [choice].

The parts are the patch probe, the signs of the frozen model, and the signs of the adapted model.
Weights of the first two come from predictions for support images that were left out: the probe has
them in closed form, and the frozen signs are weighed without the image. Few images say little, so
the weights are drawn towards those of `prior_weights`. The adapted model saw the support; its
weight is that of `prior_weights`.

Shapes: R rows (an image for a head), P parameters, N images, H = C + 1 heads, any anomaly last.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

PRIOR_DEVIATION = (1.0, 0.3)
"""How far the weights of probe and frozen signs may lie from the fixed ones, as a deviation."""
OFFSET_DEVIATION = 0.1
SLOPE, SLOPE_DEVIATION = (0.3, 0.5), 0.8
"""The slope of probabilities before left-out images are looked at, of categories and of any
anomaly, and how far its logarithm may lie from that as a deviation."""
SMALLEST_STEP = 1e-3
SLOPES = torch.logspace(-1, 1, 101, dtype=torch.float64)


@dataclass(frozen=True)
class PriorWeights:
    """Weights before left-out images are looked at: of (patch probe, frozen signs) for categories
    and for any anomaly, and of the adapted signs."""

    category: tuple[float, float]
    anomaly: tuple[float, float]
    adapted: float


def prior_weights(
    categories: int, shots: float, probe: float, frozen: float, adapted: float
) -> PriorWeights:
    """Prior weights at K = `shots`, from those with many shots.

        probe, category        a (K + 1) / (K + 3)
        probe, any anomaly     a (K - 1) / (K + 3)
        frozen signs           b (K + 7) / (K + 3)
        adapted signs          d (K - 1) / (K + 3)

    The fewer the shots, the more rests on the frozen model, which does not depend on the draw of
    the support. With one shot nothing can be left out; adapted signs, and the probe of any anomaly,
    which then has a single normal image, weigh nothing. Without frozen signs (b = 0) any anomaly
    has the probe's weight of a category. A single category is any anomaly.
    """
    of_category = probe * (shots + 1) / (shots + 3)
    checked = (shots - 1) / (shots + 3)
    signs = frozen * (shots + 7) / (shots + 3)
    of_any = probe * checked if frozen else of_category
    if categories == 1:
        of_category = of_any
    return PriorWeights((of_category, signs), (of_any, signs), adapted * checked)


@dataclass(frozen=True)
class Weights:
    """Weights (H, 2) of the patch probe and of the frozen signs, and offsets (H,)."""

    parts: torch.Tensor
    offset: torch.Tensor


def fit_weights(
    probe: torch.Tensor, signs: torch.Tensor, targets: torch.Tensor, prior: PriorWeights
) -> Weights:
    """Weights of two parts whose outputs for left-out images are `probe` and `signs` (N, H).

    `targets` (N, H) are 0 or 1. All categories share their weights, any anomaly has its own. A part
    whose prior weight is 0 is off. Heads count with the number of images on their smaller side;
    those with a single image there do not count.
    """
    shown = targets > 0.5
    heads = targets.shape[1]
    known, probe, signs = torch.isfinite(probe), probe.double().nan_to_num(0.0), signs.double()
    parts, offset = probe.new_zeros(heads, 2), probe.new_zeros(heads)
    for some, pair in zip(_groups(heads), (prior.category, prior.anomaly), strict=True):
        mean = torch.tensor(pair, dtype=torch.float64, device=probe.device)
        deviation = torch.tensor(PRIOR_DEVIATION).to(mean) * (mean > 0)
        rows = known[:, some] if pair[0] else torch.ones_like(shown[:, some])
        of_head = torch.eye(rows.shape[1]).to(mean).expand(*rows.shape, -1)
        found = penalised_logistic(
            torch.cat([probe[:, some, None], signs[:, some, None], of_head], -1).flatten(0, 1),
            shown[:, some].double().flatten(),
            _weights(shown[:, some], rows).flatten(),
            torch.cat([mean, mean.new_zeros(rows.shape[1])]),
            torch.cat([deviation, mean.new_full((rows.shape[1],), OFFSET_DEVIATION)]),
        )
        parts[some] = found[:2].clamp_min(0) * (mean > 0)
        offset[some] = found[2:]
    return Weights(parts, offset)


def fit_slopes(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Slopes (H,) of the logits (N, H) of left-out images, NaN where an image cannot be left out.

    What logits are multiplied by where a prevalence is stated: the likeliest of 101 from 0.1 to 10,
    whose logarithm has a normal prior. All categories share one, any anomaly has its own; a single
    category is any anomaly.
    """
    logits, shown = logits.double(), targets > 0.5
    grid = SLOPES.to(logits.device)
    right = torch.where(shown, logits, -logits)
    slopes = logits.new_zeros(logits.shape[1])
    priors = SLOPE if len(slopes) > 2 else SLOPE[1:] * 2
    for some, middle in zip(_groups(len(slopes)), priors, strict=True):
        weights = _weights(shown[:, some], torch.isfinite(right[:, some])).flatten()
        losses = -F.logsigmoid(grid[:, None] * right[:, some].nan_to_num(0.0).flatten()) @ weights
        far = (grid / middle).log() / SLOPE_DEVIATION
        slopes[some] = grid[(losses + 0.5 * far.square()).argmin()]
    return slopes


def _groups(heads: int) -> tuple[slice, slice]:
    """The heads that share their weights: those of all categories, and that of any anomaly."""
    return slice(0, heads - 1), slice(heads - 1, heads)


def penalised_logistic(
    features: torch.Tensor,
    truth: torch.Tensor,
    weights: torch.Tensor,
    mean: torch.Tensor,
    deviation: torch.Tensor,
    steps: int = 25,
) -> torch.Tensor:
    """The mode (P,) of a logistic regression with a normal prior, by Newton's method.

    Features (R, P), truth (R,) in [0, 1], weights (R,); a deviation of 0 keeps a parameter at its
    mean. Steps are halved until the posterior rises; without that they can circle around the mode.
    """
    precision = 1 / deviation.clamp_min(1e-6).square()

    def loss(at: torch.Tensor) -> torch.Tensor:
        wrong = F.binary_cross_entropy_with_logits(features @ at, truth, weights, reduction="sum")
        return wrong + (precision * (at - mean).square()).sum() / 2

    found = mean.clone()
    for _ in range(steps):
        p = torch.sigmoid(features @ found)
        gradient = features.T @ (weights * (p - truth)) + precision * (found - mean)
        curvature = (features * (weights * p * (1 - p))[:, None]).T @ features
        step = torch.linalg.solve(curvature + precision.diag(), gradient)
        size = 1.0
        while size > SMALLEST_STEP and loss(found - size * step) > loss(found):
            size /= 2
        found = found - size * step
    return found


def _weights(shown: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Weights (N, H) of the images for each head, from bool (N, H): 0 for those that are not known,
    and the others of each side together half the smaller side's size."""
    sides = torch.stack([shown & known, ~shown & known])
    counts = sides.sum(1, keepdim=True).double()
    least = counts.amin(0)
    each = torch.where(least < 2, 0, least) / 2 / counts.clamp_min(1)
    return (sides * each).sum(0)
