"""A tower with adapters after the output of some blocks."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from sdmad.backbones.towers import Activations, Tower


def adapted_tower(
    tower: Tower, activations: Activations, adapters: Mapping[int, nn.Module]
) -> torch.Tensor:
    """Embeddings (B, E), not normalised, of a tower with adapters after some of its blocks.

    `adapters` have the number of their block as key; each maps tokens (1, B, T, D) to the same
    shape. `activations.f_frozen` (B, T, D) is the output of the first block with an adapter, or of
    block 0 if there are no adapters. A last block without an adapter computes only the token that
    the head reads, where the tower knows how.
    """
    first, last = min(adapters, default=0), len(tower.blocks) - 1
    tokens = activations.f_frozen
    for block in range(first, last + 1):
        if block > first:
            before = replace(activations, f_in=tokens, f_frozen=tokens)
            if block == last and last not in adapters:
                token = tower.read_token(last, before)
                if token is not None:
                    return tower.head(token, before.reduced())
            tokens = tower.block(block, tokens, activations)
        if block in adapters:
            tokens = adapters[block](tokens[None])[0]
    return tower.head(tokens, activations)
