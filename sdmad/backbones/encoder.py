"""The frozen part of an image tower, computed as fast as the device allows.

    encoder = ImageEncoder(backbone)
    activations, frozen = encoder(pixels)      # uint8 (B, H, W, 3)

It runs in half precision on GPUs, and with prepacked weights (`sdmad.backbones.packed`) on CPUs
where that is faster. What it returns is in single precision.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from sdmad.backbones.loading import Backbone
from sdmad.backbones.packed import packing_pays
from sdmad.backbones.precision import Precision, half_type
from sdmad.backbones.towers import Activations

TENSORS = ("f_in", "f_frozen", "patches")  # Fields of `Activations` with a row for each image.


class ImageEncoder:
    """Activations and frozen embeddings of images, for detectors with `blocks` adapted blocks.

    Raises `UserError` if the device does not support the precision.
    """

    def __init__(self, backbone: Backbone, precision: Precision = "auto", blocks: int = 1) -> None:
        self.backbone = backbone
        self.blocks = blocks
        self.half = half_type(backbone.device, precision)
        self.packs = backbone.device.type == "cpu" and packing_pays(self.half or torch.float32)

    @cached_property
    def fast(self) -> Backbone:
        """The backbone with its image tower prepacked, or in half precision.

        Made at the first batch, because a driver needs only names and sizes.
        """
        tower = self.backbone.image
        if self.packs:
            tower = tower.packed(self.half or torch.float32)
        elif self.half is not None:
            tower = tower.cast(self.half)
        return replace(self.backbone, image=tower)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> tuple[Activations, torch.Tensor]:
        """Activations and unit embeddings (B, E) of uint8 images (B, H, W, 3).

        Images that overflow half precision are computed again in single precision.
        """
        images = self.backbone.pixels(pixels)
        activations, frozen = self.fast.image_activations(images, self.blocks, lean=True)
        if self.half is None:
            return activations, frozen
        tensors = {name: getattr(activations, name).float() for name in TENSORS}
        overflowed = (~torch.isfinite(frozen).all(-1)).nonzero()[:, 0]
        if len(overflowed):
            again, embeddings = self.backbone.image_activations(
                images[overflowed], self.blocks, lean=True
            )
            frozen[overflowed] = embeddings
            for name, tensor in tensors.items():
                tensor[overflowed] = getattr(again, name)
        return replace(activations, **tensors), frozen
