"""Centre and scale of evidence, so that no rule depends on the units of a backbone.

    standard = fit_standard(similarities)       # of N reference images
    standard.apply(others)                      # about 0 +- 1 on images like these

The reference images are those of the support. They are few, so each deviation is drawn towards the
mean over columns, as if that had been seen in `PRIOR_IMAGES` further images; similarities of signs
share one deviation (`pooled_standard`).

Shapes: N images in the dimension before the last, K columns (signs, channels or categories) in the
last; any dimensions before them.
"""

from dataclasses import dataclass

import torch

PRIOR_IMAGES = 4.0


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of K columns, (..., K)."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __getitem__(self, some: slice) -> "Standard":
        """The standard of some entries of the first dimension."""
        return Standard(self.mean[some], self.deviation[some])

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """(values - mean) / deviation, of values (..., N, K)."""
        return (values - self.mean[..., None, :]) / self.deviation[..., None, :]


def fit_standard(values: torch.Tensor, prior: float | None = None) -> Standard:
    """The standard of reference images (..., N, K).

        deviation^2 = (sum_n (x_n - mean)^2 + PRIOR_IMAGES prior^2) / (N - 1 + PRIOR_IMAGES)

    `prior` is the deviation before anything is seen; None: the quadratic mean over columns.
    """
    count = values.shape[-2]
    mean = values.mean(-2)
    squares = (values - mean[..., None, :]).square().sum(-2)
    if prior is None:
        typical = squares.mean(-1, keepdim=True) / max(1, count - 1)
    else:
        typical = torch.full_like(squares[..., :1], prior**2)
    variance = (squares + PRIOR_IMAGES * typical) / (count - 1 + PRIOR_IMAGES)
    return Standard(mean, variance.sqrt().clamp_min(1e-6))


def pooled_standard(values: torch.Tensor) -> Standard:
    """The standard of reference images (..., N, K) with the same deviation for all columns.

    deviation^2 = mean_k sum_n (x_nk - mean_k)^2 / (N - 1)
    """
    mean = values.mean(-2)
    squares = (values - mean[..., None, :]).square().sum(-2) / max(1, values.shape[-2] - 1)
    deviation = squares.mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
    return Standard(mean, deviation.expand_as(mean).contiguous())
