"""Maps against masks: known answers, scikit-learn, and a slow per-region overlap by its words."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from sdmad.evaluation.masks import pixel_auroc, pointing, region_overlap


def slow_overlap(heats: np.ndarray, masks: np.ndarray, most: float) -> float:
    """Every threshold in turn: the share of each region above it, and of the healthy pixels."""
    regions = []
    for k, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(k, labels == n) for n in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(heats.ravel().tolist()), reverse=True):
        found = heats >= threshold
        rate = found[~masks].mean()
        points.append((rate, np.mean([found[k][region].mean() for k, region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= most:
            break
        end = min(x1, most)
        y = y1 if x1 <= most else y0 + (y1 - y0) * (most - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y) / 2
    return area / most


@pytest.mark.parametrize("levels", [3, 1000])
def test_metrics_are_those_of_scikit_learn_and_of_the_definition(levels) -> None:
    """With many ties, and with few."""
    rng = np.random.default_rng(levels)
    masks = ndimage.gaussian_filter(rng.normal(size=(3, 14, 17)), (0, 2, 2)) > 0.15
    heats = np.round((masks + rng.normal(size=masks.shape)) * levels / 8)
    assert ndimage.label(masks[0])[1] > 1
    expected = roc_auc_score(masks.ravel(), heats.ravel())
    assert pixel_auroc(heats, masks) == pytest.approx(expected)
    for most in (0.05, 0.3, 1.0):
        assert region_overlap(heats, masks, most) == pytest.approx(slow_overlap(heats, masks, most))


def test_regions_have_the_same_weight_whatever_their_size() -> None:
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :5, :5], masks[0, 9, 9] = True, True
    heats = np.zeros((1, 10, 10))
    heats[0, :5, :5] = 2
    # The large region is found at no cost, the small one together with all healthy pixels.
    assert region_overlap(heats, masks) == pytest.approx(0.5 + 0.5 * 0.15)
    assert region_overlap(masks.astype(float), masks) == 1
    corner = np.eye(4, dtype=bool)[None]
    assert region_overlap(corner.astype(float), corner) == 1, "pixels at a corner are one region"
    assert np.isnan(region_overlap(heats, np.zeros_like(masks)))
    assert np.isnan(region_overlap(heats, np.ones_like(masks)))
    assert np.isnan(pixel_auroc(heats, np.ones_like(masks)))


def test_a_hit_is_a_maximum_near_the_mask() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    heat = np.zeros((9, 9))
    heat[4, 6] = 1
    assert pointing(heat, mask, 2)[0]
    assert not pointing(heat, mask, 1.9)[0]
    assert pointing(heat, mask, 1)[1] == 5 / 81
