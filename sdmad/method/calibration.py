"""Slope and doubt of the probabilities, from the support alone [choice].

Shapes: S seeds, N support images (all views), C categories. Images with and without a category
weigh the same, as in training, so temperature changes how sure a probability is and no decision.
"""

import torch

from sdmad.method.losses import category_loss

TEMPERATURES = torch.logspace(-1, 1.5, 101)
TAIL = 0.05


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The temperature (S,) that makes logits (S, N, C) most likely, of 101 from 0.1 to 31.6."""
    grid = TEMPERATURES.to(logits.device)
    losses = torch.stack([category_loss(logits / t, labels) for t in grid])  # (T, S)
    return grid[losses.argmin(0)]


def undecided_band(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Probabilities that the support leaves undecided, (S, C, 2): lower and upper end.

    Between the 95 % quantile of images without the category and the 5 % quantile of those with
    it: where the two overlap, or the gap between them when they do not. 0.5 lies inside or at an
    end.
    """
    present = labels.bool()
    nan = torch.tensor(float("nan"), device=probabilities.device)
    with_category = torch.where(present, probabilities, nan).nanquantile(TAIL, dim=1)
    without = torch.where(present, nan, probabilities).nanquantile(1 - TAIL, dim=1)
    ends = torch.stack([with_category, without], dim=-1).nan_to_num(0.5)
    low = ends.amin(-1).clamp(max=0.5)
    return torch.stack([low, ends.amax(-1).clamp(min=0.5)], dim=-1)
