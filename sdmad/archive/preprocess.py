"""From a decoded image to the uint8 pixels that a backbone expects."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class ImageSpec:
    """The input of an image tower, as open_clip describes it.

    `size` is (height, width); `resize_mode` is `shortest` (resize, then centre crop), `longest`
    (resize, then pad with black) or `squash`; `mean` and `std` are for pixels on a scale of 0 to 1.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def fit(self, image: Image.Image) -> np.ndarray:
        """Resize to the tower's input: (height, width, 3) uint8."""
        height, width = self.size
        method = _FILTERS.get(self.interpolation, Image.Resampling.BICUBIC)
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        if image.size != (width, height):
            if self.resize_mode == "squash":
                image = image.resize((width, height), method)
            elif self.resize_mode == "longest":
                image = ImageOps.pad(image, (width, height), method)
            else:
                image = ImageOps.fit(image, (width, height), method)
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return pixels
