"""The two towers of an open_clip model, split at the first adapted block.

    tower = kinds.image_tower(clip)
    activations = tower.prefix(pixels, adapted_blocks=1)      # once, the same for every seed
    embeddings = tower.suffix(activations, adapters, seeds=4)  # (4, B, E)

`base` has what all towers share, `open_clip`, `timm` and `hugging_face` one family each, and
`kinds` finds the family of a model. This module needs none of these libraries, which take seconds
to import.
"""

from sdmad.backbones.towers.base import Activations, BlockAdapter, ImageTower, TextTower, Tower

__all__ = [
    "Activations",
    "BlockAdapter",
    "ImageTower",
    "TextTower",
    "Tower",
]
