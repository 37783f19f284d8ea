"""Maps over the images of the report: where the signs of a finding are.

The colour is the loss of a sign's similarity when a place is hidden (`sdmad.localisation`), in
deviations of similarities on the support. Full colour is the sign's largest loss, but at least
`LEAST_LOSS`, so that signs without a decisive place stay faint, and have no outline. The outline
encloses places with at least half of the full colour.
"""

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdmad.detector import Detector
from sdmad.localisation import (
    LEAST_LOSS,
    deviation_of,
    locate,
    longer_side,
    map_strength,
    overlay,
    upsample,
)
from sdmad.report.examples import Example

SIDE = 144
COLOURS = 128
SECONDS = 60.0


@dataclass(frozen=True)
class LocalisedSign:
    """The map of one sign over one image.

    `picture` is a data URI, `drop` the largest loss of cosine similarity at one place. `faint` is
    true when that loss is below `LEAST_LOSS` deviations.
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
    small = longer_side(pixels, SIDE)
    heats = upsample(maps, (small.shape[0], small.shape[1]))[0]
    deviation = deviation_of(detector)
    found = []
    for sign, own, heat in zip(signs, maps[0], heats, strict=True):
        strength = map_strength(heat, deviation)
        drop = float(own.max())
        faint = drop / deviation < LEAST_LOSS
        picture = picture_uri(overlay(small, strength, outline=not faint))
        found.append(LocalisedSign(sign, picture, drop, faint))
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


def picture_uri(pixels: np.ndarray) -> str:
    """A data URI with a reduced palette, since a page has dozens of these pictures."""
    sink = io.BytesIO()
    Image.fromarray(pixels).quantize(COLOURS).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
