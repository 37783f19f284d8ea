"""Temperature and undecided band of the probabilities, from the support alone [choice].

Shapes: S seeds, N support images (all views), C categories.
"""

import torch

from sdmad.method.losses import category_loss

TEMPERATURES = torch.logspace(-1, 1.5, 101)
TAIL = 0.05


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The temperature T (S,) with the lowest L_cat of logits / T, of 101 from 0.1 to 31.6.

    Logits and labels are (S, N, C). T changes how close a probability is to 0.5, not its side.
    """
    grid = TEMPERATURES.to(logits.device)
    losses = torch.stack([category_loss(logits / t, labels) for t in grid])  # (T, S)
    return grid[losses.argmin(0)]


def undecided_band(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The undecided band of probabilities: its ends (S, C, 2), the lower first.

    The ends are the 5 % quantile over images with the category and the 95 % quantile over images
    without it, so the band is the overlap of the two groups or the gap between them. It is
    extended, where needed, to include 0.5. `probabilities` and `labels` are (S, N, C).
    """
    present = labels.bool()
    nan = torch.tensor(float("nan"), device=probabilities.device)
    with_category = torch.where(present, probabilities, nan).nanquantile(TAIL, dim=1)
    without = torch.where(present, nan, probabilities).nanquantile(1 - TAIL, dim=1)
    ends = torch.stack([with_category, without], dim=-1).nan_to_num(0.5)
    low = ends.amin(-1).clamp(max=0.5)
    return torch.stack([low, ends.amax(-1).clamp(min=0.5)], dim=-1)
