"""Adapters after the frozen output of some blocks, run by `Tower.suffix`."""

from collections.abc import Mapping

import torch
from torch import nn

from sdmad.backbones.towers import Activations, Tower


class _AfterBlock(nn.Module):
    """A block adapter for `Tower.suffix` that reads only the block's output; None: identity."""

    def __init__(self, module: nn.Module | None) -> None:
        super().__init__()
        self.module = module

    def forward(self, f_in: torch.Tensor, f_frozen: torch.Tensor) -> torch.Tensor:
        tokens = f_frozen if f_frozen.dim() == 4 else f_frozen[None]  # (1, B, T, D)
        return tokens if self.module is None else self.module(tokens)


def adapted_tower(
    tower: Tower, activations: Activations, adapters: Mapping[int, nn.Module]
) -> torch.Tensor:
    """Embeddings (B, E), not normalised, of a tower with adapters after some of its blocks.

    `adapters` have the number of their block as key; each maps tokens (1, B, T, D) to the same
    shape. `activations.f_frozen` (B, T, D) is the output of the first block with an adapter, or of
    block 0 if there are no adapters.
    """
    first = min(adapters, default=0)
    after = [_AfterBlock(adapters.get(block)) for block in range(first, len(tower.blocks))]
    return tower.suffix(activations, after)[0]
