"""Adapters behind the frozen output of some blocks, in the seam of `Tower.suffix`."""

from collections.abc import Mapping

import torch
from torch import nn

from sdmad.backbones.towers import Activations, Tower


class _Behind(nn.Module):
    """What follows one block: a module of its output, or nothing."""

    def __init__(self, module: nn.Module | None) -> None:
        super().__init__()
        self.module = module

    def forward(self, f_in: torch.Tensor, f_frozen: torch.Tensor) -> torch.Tensor:
        tokens = f_frozen if f_frozen.dim() == 4 else f_frozen[None]  # (1, B, T, D)
        return tokens if self.module is None else self.module(tokens)


def adapted_tower(
    tower: Tower, activations: Activations, adapters: Mapping[int, nn.Module]
) -> torch.Tensor:
    """Embeddings (B, E), not normalised, of a tower with adapters behind some of its blocks.

    `activations.f_frozen` (B, T, D) is the output of the first adapted block, of the first block
    of all when there are no adapters. Each adapter maps tokens (1, B, T, D) to the same shape.
    """
    first = min(adapters, default=0)
    behind = [_Behind(adapters.get(block)) for block in range(first, len(tower.blocks))]
    return tower.suffix(activations, behind)[0]
