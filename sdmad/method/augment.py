"""The images of a support, and their views: light changes that medicine allows.

augment(image, key="a.tar/7.png", view=3, config=AugmentConfig())
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from sdmad.backbones.towers import Activations


class AugmentConfig(BaseModel):
    """Light changes that medicine allows; `views` of each image are made once and cached."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    views: int = Field(
        default=8, ge=1, description="versions of each support image, the original included"
    )
    flip: bool | None = Field(
        default=None,
        description="mirror half of the views left to right; by default only where the catalog "
        "has `flip: true`",
    )
    shift: float = Field(
        default=0.06,
        ge=0,
        le=0.5,
        description="largest shift of a view, as a share of the image's side",
    )
    gain: float = Field(default=0.15, ge=0, lt=1)
    noise: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="standard deviation of the noise in a view; pixel values run from 0 to 1",
    )

    def chosen(self, flip: bool) -> "AugmentConfig":
        """With `flip`, what the catalog says, where the configuration is silent."""
        return self if self.flip is not None else self.model_copy(update={"flip": flip})


@dataclass(frozen=True)
class SupportImages:
    """The support of one fit: uint8 pixels (N, H, W, 3), labels (N, C), a key for each image.

    `encoded` is what the frozen image tower makes of the images, where that is stored: activations
    (N, T, D) for one adapted block, and unit embeddings (N, E). Then there are no pixels, `pixels`
    is (N, 0, 0, 3), and the only view is the image itself.

    `shots` is their name, `sdmad.inputs.shots.key`: a number, or a text if categories differ.
    """

    shots: int | str
    seed: int
    keys: list[str]
    pixels: np.ndarray
    labels: np.ndarray
    encoded: tuple[Activations, torch.Tensor] | None = None


def random_generator(*parts: object) -> torch.Generator:
    """A generator whose stream depends on `parts` alone, on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def augment(image: np.ndarray, key: str, view: int, config: AugmentConfig) -> np.ndarray:
    """View `view` of an image (H, W, 3) uint8; view 0 is the image itself."""
    if view == 0:
        return image
    generator = random_generator("augment", key, view)
    flip, dx, dy, gain = torch.rand(4, generator=generator).tolist()
    height, width = image.shape[:2]
    if config.flip and flip < 0.5:
        image = image[:, ::-1]
    shift_y = round((2 * dy - 1) * config.shift * height)
    shift_x = round((2 * dx - 1) * config.shift * width)
    pad_y, pad_x = abs(shift_y), abs(shift_x)
    padded = np.pad(image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="edge")
    shifted = padded[pad_y + shift_y :, pad_x + shift_x :][:height, :width]
    noise = torch.randn(height, width, 1, generator=generator).numpy() * config.noise * 255
    bright = shifted * (1 + (2 * gain - 1) * config.gain) + noise
    return np.clip(bright + 0.5, 0, 255).astype(np.uint8)
