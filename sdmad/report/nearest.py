"""The nearest support images: what a finding by appearance looks like to the patch probe.

A finding by appearance has no signs to show. Beside it stands the support image of its category
whose patch features have the highest correlation with those of the image, each channel centred and
scaled over support images of all categories and of normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdmad.archive.selected import decode_members
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.fitting.supports import draw_again
from sdmad.report.examples import Example
from sdmad.report.plots import png_uri

MOST_IMAGES = 96
"""Support images that are read at most."""
LEAST_IMAGES = 4
"""With fewer, their mean and deviation say nothing."""


@dataclass(frozen=True)
class NearestSupport:
    """The support image of `category` nearest to an example; `picture` is a data URI."""

    category: str
    name: str
    picture: str
    similarity: float

    @property
    def caption(self) -> str:
        category = self.category.replace("_", " ")
        return f"nearest support image with {category} ({self.similarity:z.2f})"


def nearest_supports(
    detector: Detector, uri: str, gallery: Sequence[Example], pixels: Sequence[np.ndarray]
) -> dict[str, list[NearestSupport]]:
    """The nearest support image for each finding by appearance, by the example's name.

    `uri` is that of the detector, `pixels` (height, width, 3) are those of the examples, in the
    same order. Empty where the training run, its labels or its archive cannot be read any more.
    """
    if not any(example.by_appearance for example in gallery):
        return {}
    try:
        images, shows = _support_images(detector, uri)
    except (UserError, KeyError, OSError):
        return {}
    if len(images) < LEAST_IMAGES:
        return {}
    support, others = (
        features(detector, np.stack(list(some))) for some in (images.values(), pixels)
    )
    mean, deviation = support.mean(0), support.std(0) + 1e-6
    units = [(values - mean) / deviation for values in (support, others)]
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in units]
    similarity = units[1] @ units[0].T
    names, stacked = list(images), list(images.values())
    found: dict[str, list[NearestSupport]] = {}
    for row, example in enumerate(gallery):
        for category in example.by_appearance:
            own = [k for k, name in enumerate(names) if category in shows[name]]
            if own:
                best = max(own, key=lambda k: similarity[row, k])
                nearest = NearestSupport(
                    category,
                    "/".join(filter(None, names[best])),
                    png_uri(stacked[best]),
                    float(similarity[row, best]),
                )
                found.setdefault(example.name, []).append(nearest)
    return found


def features(detector: Detector, pixels: np.ndarray) -> np.ndarray:
    """The patch features (B, D) that the probe reads, of uint8 pixels (B, height, width, 3)."""
    at_once = detector.backbone.images_at_once
    parts = [
        detector.patch_features(pixels[start : start + at_once])
        for start in range(0, len(pixels), at_once)
    ]
    return np.concatenate(parts)


def _support_images(
    detector: Detector, uri: str
) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], set[str]]]:
    """Pixels of support images by (archive, member), and the categories that each shows.

    Supports are drawn again from the label table of the training run, seed by seed; one that
    differs from what its fit remembers is left out.
    """
    names = detector.catalog.category_names
    drawn = draw_again(uri, detector.provenance, detector.seeds, detector.support_digests)
    shows: dict[tuple[str, str], set[str]] = {}
    for support in drawn.supports:
        for image, truth in zip(support.images, support.labels, strict=True):
            shows[image] = {names[c] for c in np.flatnonzero(truth)}
    pixels, _ = decode_members(drawn.archive, list(shows)[:MOST_IMAGES], detector.spec)
    return pixels, shows
