"""Bounds on the memory of many seeds.

Where only one token of an image is read, seeds cost next to nothing. Where the head reads all
tokens (SigLIP, mean pooling), and with more than one adapted block, each seed has all tokens of
every image: 16 seeds x 64 images x 729 tokens x width 1152 are 3.4 GB in single precision, and
several such tensors are alive at once. Then seeds and images are computed some at a time, with
equal results but for the order of sums. A *row* is one input of one seed.
"""

from functools import partial
from itertools import pairwise

import torch
from torch.utils.checkpoint import checkpoint

from sdmad.backbones.towers import Activations, Tower
from sdmad.method.adapter import TowerAdapters

TOKENS_AT_ONCE = 1 << 30
"""Bytes of all tensors of tokens that are alive at once in the adapted part of a tower: 1 GiB, a
tenth of what a node has for each of its detectors, and enough for 30 rows of the largest tower that
open_clip has at 384 pixels (729 tokens of width 1152), so that matrix products stay large."""
CACHE = 4 << 30
"""Bytes of support images' tokens that fitting keeps: 4 GiB, 640 views of that tower, or the eight
views of 80 images; 500,000 views where one token is read (ViT-L/14)."""
# Tensors as large as a row's tokens, alive at the peak of a forward pass. Measured: with one
# adapted block 5 (9.6 for MobileCLIP's final convolution), with more 11 to 17.
ONE_BLOCK, MORE_BLOCKS = 10, 17
# The same with what the backward pass keeps: 8 (16) with one block, 16 to 20 for each further.
TRAINED_BLOCK, TRAINED_FURTHER = 16, 20


def row_bytes(activations: Activations, blocks: int, training: bool) -> int:
    """Bytes that one row takes in the adapted part of a tower, with `blocks` adapted blocks."""
    tokens, width = activations.f_in.shape[-2:]
    if training:
        copies = TRAINED_BLOCK + TRAINED_FURTHER * max(0, blocks - 1)
    else:
        copies = ONE_BLOCK if blocks <= 1 else MORE_BLOCKS
    return copies * tokens * width * torch.float32.itemsize


def parts(count: int, most: int) -> list[slice]:
    """`count` things in order, in as few parts of at most `most` as there can be, nearly equal."""
    number = -(-count // max(1, most))
    edges = [round(k * count / number) for k in range(number + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


def adapted(tower: Tower, activations: Activations, adapters: TowerAdapters) -> torch.Tensor:
    """Embeddings (S, B, E), not normalised, of all seeds of `adapters`, within `TOKENS_AT_ONCE`.

    With gradients, what is computed in parts is computed again in the backward pass.
    """
    seeds, inputs = adapters.seeds, activations.f_in.shape[-3]
    training = torch.is_grad_enabled()
    room = TOKENS_AT_ONCE // row_bytes(activations, len(adapters), training)
    if len(adapters) == 0 or seeds * inputs <= room:
        return tower.suffix(activations, adapters.layers, seeds)
    rows = []
    for some in parts(seeds, room // inputs):
        layers = [partial(layer, seeds=some) for layer in adapters.layers]
        pieces = []
        for few in parts(inputs, room):
            piece = tower.part(activations, some, few)
            if training:
                pieces.append(checkpoint(tower.suffix, piece, layers, use_reentrant=False))
            else:
                pieces.append(tower.suffix(piece, layers))
        rows.append(torch.cat(pieces, dim=1))
    return torch.cat(rows)
