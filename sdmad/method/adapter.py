"""Shift Adapters, for several seeds at once.

[paper] Layer i with input f_in and frozen output f^_out gives

    f_ada = a(W2 a(W1 f_in)),    f_out = lambda f^_out + (1 - lambda) f_ada.

[choice] The last block of each tower is adapted. a is GELU and there are no biases. W1 starts with
Xavier's uniform distribution and W2 with zeros, so that training starts at the frozen model. With
`match_norm`, tokens are divided by their root mean square before W1, f_ada is multiplied by that of
f^_out, so that nothing depends on how long a backbone's tokens are, and f_out is divided by lambda,
which a normalisation behind it would undo anyway: a block that has learned nothing hands on f^_out
itself. One module holds the adapters of all seeds in a leading dimension S, so that one batch
trains or scores all.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
}
# W2 at the start, as a share of Xavier's distribution.
START = {"gelu": 0.0, "leaky_relu": 0.01, "relu": 0.01}


class TowerAdapterConfig(BaseModel):
    """Number, width and strength of the adapters in one tower."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    blocks: int = Field(
        default=1,
        ge=0,
        description="transformer blocks with an adapter, counted from the last; 0: none",
    )
    bottleneck: int = Field(default=32, ge=1)
    frozen_weight: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="lambda, the weight of the frozen path; 1: exactly the frozen model",
    )
    activation: Literal["gelu", "leaky_relu", "relu"] = "gelu"
    match_norm: bool = Field(
        default=True,
        description="measure tokens in units of their root mean square, before and after",
    )


class AdapterConfig(BaseModel):
    """The adapters of both towers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    image: TowerAdapterConfig = TowerAdapterConfig()
    text: TowerAdapterConfig = TowerAdapterConfig()


class ShiftAdapter(nn.Module):
    """The adapter of one block, for S seeds: W1 is `down` (S, D, r), W2 is `up` (S, r, D)."""

    def __init__(self, seeds: int, width: int, config: TowerAdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.down = nn.Parameter(torch.zeros(seeds, width, config.bottleneck))
        self.up = nn.Parameter(torch.zeros(seeds, config.bottleneck, width))

    @torch.no_grad()
    def initialise(self, seed_index: int, generator: torch.Generator) -> None:
        """Draw W1 of one seed, and set W2 to zero.

        Where that could not be trained, W2 is drawn too: with an activation that has no slope at
        zero, and without a frozen path.
        """
        start = START[self.config.activation] if self.config.frozen_weight else 1.0
        for weight, factor in ((self.down[seed_index], 1.0), (self.up[seed_index], start)):
            bound = (6 / sum(weight.shape)) ** 0.5
            # Drawn on the CPU, so that every device starts with the same weights.
            drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
            weight.copy_(factor * drawn)

    def forward(
        self, f_in: torch.Tensor, f_frozen: torch.Tensor, seeds: slice = slice(None)
    ) -> torch.Tensor:
        """f_out (S, B, T, D) from the block's input and its frozen output.

        Both are (S, B, T, D), or (B, T, D) when all seeds share them. `seeds` are those to compute.
        """
        down, up = self.down[seeds], self.up[seeds]
        a = ACTIVATIONS[self.config.activation]
        if f_in.dim() == 3:
            f_in, f_frozen = f_in[None], f_frozen[None]
        if self.config.match_norm:
            f_in = f_in / _root_mean_square(f_in)
        hidden = a(torch.matmul(f_in, down[:, None]))  # (S, B, T, r)
        f_ada = a(torch.matmul(hidden, up[:, None]))  # (S, B, T, D)
        weight = self.config.frozen_weight
        if self.config.match_norm:
            f_ada = f_ada * _root_mean_square(f_frozen)
            if weight:
                return f_frozen + (1 / weight - 1) * f_ada
        return weight * f_frozen + (1 - weight) * f_ada


def _root_mean_square(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)


class TowerAdapters(nn.ModuleList):
    """The Shift Adapters of the last blocks of one tower, in the order of the blocks."""

    def __init__(self, seeds: int, width: int, config: TowerAdapterConfig) -> None:
        super().__init__(ShiftAdapter(seeds, width, config) for _ in range(config.blocks))
        self.seeds = seeds
        self.config = config

    @property
    def layers(self) -> list[ShiftAdapter]:
        return [layer for layer in self if isinstance(layer, ShiftAdapter)]

    def initialise(self, seed_index: int, generator: torch.Generator) -> None:
        """Draw the weights of one seed in all blocks."""
        for layer in self.layers:
            layer.initialise(seed_index, generator)

    def seed(self, index: int) -> "TowerAdapters":
        """The adapters of one seed (S = 1), as `part`."""
        return self.part(slice(index, index + 1))

    def part(self, seeds: slice) -> "TowerAdapters":
        """The adapters of some seeds: the same weights in memory, with gradients of their own."""
        some = TowerAdapters(len(range(self.seeds)[seeds]), 0, self.config)
        for mine, theirs in zip(some.layers, self.layers, strict=True):
            mine.down = nn.Parameter(theirs.down[seeds].detach())
            mine.up = nn.Parameter(theirs.up[seeds].detach())
        return some
