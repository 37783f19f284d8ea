"""Maps of signs against masks: pixel AUROC, per-region overlap and the pointing game.

    found = measure_masks(test, detector)
    found.table            # one row a category

A label table may have a column `mask`: the path in the archive of an image that is 0 where there is
no disease. Counted are test images with a mask and exactly one category, because a mask does not
say which category it belongs to. The map of a category is the mean of the maps of its signs
(`sdmad.localisation`), with the weights that the signs have in the decision (mean over seeds).
"""

import time
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from sdmad.archive.preprocess import Box, ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.detector import Detector
from sdmad.evaluation.audit import sign_weights
from sdmad.evaluation.measure import ScoredTest
from sdmad.localisation import PLACES, locate, upsample
from sdmad.words import counted

MOST_IMAGES = 16
SECONDS = 60.0
LARGEST_RATE = 0.3
"""False positive rate up to which per-region overlap is averaged (Bergmann et al., MVTec AD)."""
_CORNERS = np.ones((3, 3), bool)  # Pixels that touch at a corner belong to one region.


@dataclass(frozen=True)
class Masked:
    """One image with the map of its category, in cosine, and its mask, both (H, W)."""

    row: int
    category: str
    heat: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class MaskMeasures:
    """The metrics of each category, the images behind them, and what was left out.

    `table` has the columns category, images, pixel_auroc, pro, pointing and chance; `chance` is the
    mean share of the image that counts as a hit of the pointing game.
    """

    table: pd.DataFrame
    images: list[Masked] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _MaskSpec(ImageSpec):
    """The place of an image in the backbone's input, for a mask: 255 where it is not 0."""

    def fit(self, image: Image.Image, box: Box | None = None) -> np.ndarray:
        values = np.asarray(image.convert("RGB")).max(-1)
        return super().fit(Image.fromarray(np.where(values > 0, np.uint8(255), np.uint8(0))), box)


def pixel_auroc(heats: np.ndarray, masks: np.ndarray) -> float:
    """AUROC of all pixels of the images (N, H, W) together; NaN without pixels of both kinds."""
    truth = masks.ravel()
    return float(roc_auc_score(truth, heats.ravel())) if 0 < truth.mean() < 1 else float("nan")


def region_overlap(heats: np.ndarray, masks: np.ndarray, most: float = LARGEST_RATE) -> float:
    """Per-region overlap (PRO): mean share of each region that is found, averaged over false
    positive rates from 0 to `most`; in [0, 1], NaN without regions or without other pixels.

    Regions are the connected parts of the masks, each of the same weight. Thresholds are all values
    of the maps; between two of them the curve is a straight line.
    """
    gain = np.zeros(masks.shape)
    regions = 0
    for place, mask in zip(gain, masks, strict=True):
        labels, count = ndimage.label(mask, _CORNERS)
        sizes = np.bincount(labels.ravel())
        place[mask] = 1 / sizes[labels[mask]]
        regions += count
    healthy = int((~masks).sum())
    if not regions or not healthy:
        return float("nan")
    order = np.argsort(-heats.ravel(), kind="stable")
    values = heats.ravel()[order]
    last = np.append(values[1:] != values[:-1], True)
    overlap = np.append(0, (np.cumsum(gain.ravel()[order]) / regions)[last])
    rate = np.append(0, (np.cumsum(~masks.ravel()[order]) / healthy)[last])
    inside = rate <= most
    ends = np.interp(most, rate, overlap)
    rates = np.append(rate[inside], most)
    return float(np.trapezoid(np.append(overlap[inside], ends), rates) / most)


def pointing(heat: np.ndarray, mask: np.ndarray, tolerance: float) -> tuple[bool, float]:
    """Whether the maximum of a map is at most `tolerance` pixels from the mask, and the share of
    the image that is (arXiv 1608.00507)."""
    near = ndimage.distance_transform_edt(~mask) <= tolerance
    return bool(near.flat[int(heat.argmax())]), float(near.mean())


def measure_masks(
    test: ScoredTest, detector: Detector, seconds: float = SECONDS
) -> MaskMeasures | None:
    """Compare maps with masks, for at most `MOST_IMAGES` of each category; None without masks.

    No image is begun after `seconds`: a large backbone without a GPU needs minutes for one.
    """
    rows = _rows(test)
    if rows is None:
        return None
    notes: list[str] = []
    names = {row: _mask_name(test, row) for row, _ in rows}
    masks = _read(test, names, detector.spec, notes)
    images = [(str(test.table.archive[row]), str(test.table.member[row])) for row in masks]
    pixels, _ = decode_members(test.metadata["archive"], images, detector.spec)
    catalog, weights = detector.catalog, sign_weights(detector).mean(0)
    begin, found, left = time.monotonic(), [], 0
    for row, category in rows:
        name = str(test.table.archive[row]), str(test.table.member[row])
        if row not in masks or name not in pixels:
            continue
        if time.monotonic() - begin > seconds:
            left += 1
            continue
        signs = catalog.categories[category].signs
        own = weights[catalog.category_names.index(category)]
        shares = np.array([own[catalog.sign_names.index(sign)] for sign in signs])
        maps = locate(detector, pixels[name][None], signs)
        heat = upsample(
            np.tensordot(shares, maps[0], 1)[None, None].astype(np.float32), detector.spec.size
        )
        found.append(Masked(row, category, heat[0, 0], masks[row]))
    if left:
        notes.append(f"{left} images with a mask have no map, because time ran out")
    return MaskMeasures(_table(found, catalog.category_names), found, notes)


def _rows(test: ScoredTest) -> list[tuple[int, str]] | None:
    """Rows to compare, with their category, in turn over categories; None if there is no mask."""
    table = test.table
    if table.masks is None or not any(table.masks):
        return None
    with_mask = np.array([bool(mask) for mask in table.masks])
    single = with_mask & (test.truth.sum(1) == 1)
    by_category = [np.flatnonzero(single & column)[:MOST_IMAGES] for column in test.truth.T]
    return [
        (int(rows[k]), name)
        for k in range(MOST_IMAGES)
        for rows, name in zip(by_category, table.categories, strict=True)
        if k < len(rows)
    ]


def _mask_name(test: ScoredTest, row: int) -> tuple[str, str]:
    return str(test.table.archive[row]), str(test.table.masks[row])  # type: ignore[index]


def _read(
    test: ScoredTest, names: dict[int, tuple[str, str]], spec: ImageSpec, notes: list[str]
) -> dict[int, np.ndarray]:
    """Masks by row; each is in the shard of its image, or else a loose object."""
    plain = replace(spec, windows=(), hounsfield=False, stretch=(0, 100), jpeg_scaling=False)
    reader = _MaskSpec(**vars(plain))
    base = test.metadata["archive"]
    found, _ = decode_members(base, list(names.values()), reader)
    loose = {row: ("", mask) for row, (shard, mask) in names.items() if (shard, mask) not in found}
    others, _ = decode_members(base, list(loose.values()), reader) if loose else ({}, [])
    masks = {}
    for row, name in names.items():
        values = found.get(name, others.get(loose.get(row, name)))
        if values is not None:
            masks[row] = values[..., 0] >= 128
    missing = [names[row][1] for row in names if row not in masks]
    if missing:
        notes.append(
            f"{len(missing):,} of {len(names):,} masks cannot be read, such as {missing[0]}"
        )
    empty = [row for row, mask in masks.items() if not mask.any()]
    if empty:
        notes.append(f"{counted(len(empty), 'mask')} empty within what the backbone sees")
    return {row: mask for row, mask in masks.items() if mask.any()}


def _table(found: list[Masked], categories: list[str]) -> pd.DataFrame:
    records = []
    for category in categories:
        own = [one for one in found if one.category == category]
        if not own:
            continue
        heats = np.stack([one.heat for one in own])
        masks = np.stack([one.mask for one in own])
        tolerance = max(masks.shape[1:]) / PLACES / 2
        hits, chances = zip(*(pointing(one.heat, one.mask, tolerance) for one in own), strict=True)
        records.append(
            {
                "category": category,
                "images": len(own),
                "pixel_auroc": pixel_auroc(heats, masks),
                "pro": region_overlap(heats, masks),
                "pointing": float(np.mean(hits)),
                "chance": float(np.mean(chances)),
            }
        )
    columns = ["category", "images", "pixel_auroc", "pro", "pointing", "chance"]
    return pd.DataFrame(records, columns=columns)
