"""The section of the report that shows maps of signs beside masks."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_erosion

from sdmad.detector import Detector
from sdmad.evaluation.masks import MOST_IMAGES, Masked, measure_masks
from sdmad.evaluation.measure import ScoredTest
from sdmad.localisation import deviation_of, longer_side, map_strength, overlay
from sdmad.report.examples import read_pixels
from sdmad.report.localised import SIDE, picture_uri

EXAMPLES = 12


@dataclass(frozen=True)
class MaskExample:
    """One image with its mask outlined, and with its map; `mask` and `map` are data URIs."""

    name: str
    category: str
    mask: str
    map: str


@dataclass(frozen=True)
class MaskSection:
    """Metrics by category, examples, what was left out, and the most images of a category."""

    table: pd.DataFrame
    examples: list[MaskExample]
    notes: list[str]
    most: int = MOST_IMAGES


def mask_section(test: ScoredTest, detector: Detector) -> MaskSection | None:
    """What the report shows of masks; None if the label table has none."""
    found = measure_masks(test, detector)
    if found is None:
        return None
    shown = found.images[:EXAMPLES]
    pixels = read_pixels(test, np.array([one.row for one in shown], int), detector)
    deviation = deviation_of(detector)
    examples = [
        _example(test, one, pixels[one.row], deviation) for one in shown if one.row in pixels
    ]
    return MaskSection(found.table, examples, found.notes)


def _example(test: ScoredTest, one: Masked, pixels: np.ndarray, deviation: float) -> MaskExample:
    small = longer_side(pixels, SIDE)
    size = small.shape[1], small.shape[0]
    mask = np.asarray(Image.fromarray(one.mask).resize(size, Image.Resampling.NEAREST))
    heat = np.asarray(Image.fromarray(one.heat).resize(size, Image.Resampling.BILINEAR))
    outlined = small.copy()
    outlined[mask & ~binary_erosion(mask, border_value=1)] = (255, 210, 0)
    name = (str(test.table.archive[one.row]), str(test.table.member[one.row]))
    return MaskExample(
        name="/".join(filter(None, name)),
        category=one.category,
        mask=picture_uri(outlined),
        map=picture_uri(overlay(small, map_strength(heat, deviation))),
    )
