"""Maps over the images of the report: where the signs of a finding are.

The colour is the loss of a sign's similarity when a place is hidden (`sdmad.localisation`), in
logits. Full colour is the sign's largest loss, but at least one logit, so that signs without a
decisive place stay faint. The outline encloses places with at least half of the full colour.
"""

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

from sdmad.detector import Detector
from sdmad.localisation import locate, upsample
from sdmad.report.examples import Example

SIDE = 144
COLOURS = 128
OPACITY = 0.5
LEAST_LOGITS = 1.0
SECONDS = 60.0


@dataclass(frozen=True)
class LocalisedSign:
    """The map of one sign over one image.

    `picture` is a data URI, `drop` the largest loss of cosine similarity at one place. `faint` is
    true when that loss is below one logit.
    """

    sign: str
    picture: str
    drop: float
    faint: bool

    @property
    def caption(self) -> str:
        name = self.sign.replace("_", " ")
        return f"{name} (not localised)" if self.faint else name


def localised_signs(
    detector: Detector, pixels: np.ndarray, signs: Sequence[str]
) -> list[LocalisedSign]:
    """One map for each distinct sign, over an image (H, W, 3) uint8 of the backbone's size.

    Raises `UserError` for a sign that is not in the detector's catalog.
    """
    signs = list(dict.fromkeys(signs))
    if not signs:
        return []
    maps = locate(detector, pixels[None], signs)
    small = _small(pixels)
    heats = upsample(maps, (small.shape[0], small.shape[1]))[0] * detector.backbone.logit_scale
    found = []
    for sign, own, heat in zip(signs, maps[0], heats, strict=True):
        strength = np.clip(heat / max(float(heat.max()), LEAST_LOGITS), 0, 1)
        drop = float(own.max())
        faint = drop * detector.backbone.logit_scale < LEAST_LOGITS
        found.append(LocalisedSign(sign, _uri(overlay(small, strength)), drop, faint))
    return found


def localised_gallery(
    detector: Detector,
    gallery: Sequence[Example],
    pixels: Sequence[np.ndarray],
    seconds: float = SECONDS,
) -> dict[str, list[LocalisedSign]]:
    """Maps of the signs of each example, by the example's name; `pixels` are in the same order.

    No example is started after `seconds`: a large backbone without GPU needs minutes for one.
    """
    begin = time.monotonic()
    found: dict[str, list[LocalisedSign]] = {}
    for example, image in zip(gallery, pixels, strict=True):
        if time.monotonic() - begin > seconds:
            break
        found[example.name] = localised_signs(detector, image, [s for _, s, _ in example.signs])
    return found


def overlay(pixels: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Heat (H, W) in [0, 1] over the grey values of an image (H, W, 3); returns (H, W, 3) uint8."""
    grey = pixels.astype(float).mean(-1, keepdims=True).repeat(3, axis=-1)
    colour = 255 * mpl.colormaps["inferno"](0.4 + 0.5 * strength)[..., :3]
    opacity = OPACITY * strength[..., None]
    mixed = 0.8 * grey * (1 - opacity) + colour * opacity
    inside = strength >= 0.5
    mixed[inside & ~binary_erosion(inside, border_value=1)] = 255
    return (mixed + 0.5).astype(np.uint8)


def _small(pixels: np.ndarray) -> np.ndarray:
    """The image resized so that its longer side has `SIDE` pixels."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _uri(pixels: np.ndarray) -> str:
    """A data URI with a reduced palette, since a page has dozens of these pictures."""
    sink = io.BytesIO()
    Image.fromarray(pixels).quantize(COLOURS).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
