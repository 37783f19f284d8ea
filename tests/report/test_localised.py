"""Maps of signs over images."""

import base64
import copy
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sdmad.errors import UserError
from sdmad.localisation import LEAST_LOSS, draw_map, locate, map_strength, overlay
from sdmad.phantoms.task import draw_example
from sdmad.report.examples import Example
from sdmad.report.localised import SIDE, localised_gallery, localised_signs
from sdmad.report.plots import png_uri


@pytest.fixture(scope="module")
def ring() -> tuple[np.ndarray, np.ndarray]:
    """A phantom with a ring lesion: pixels (64, 64, 3), mask."""
    examples = (draw_example(k, "test") for k in range(100))
    example = next(e for e in examples if set(e.masks) == {"ring_lesion"})
    return np.repeat(example.image[..., None], 3, axis=2), example.masks["ring_lesion"]


def picture(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def test_the_heat_lies_on_the_sign(detector, ring) -> None:
    pixels, mask = ring
    (found,) = localised_signs(detector, pixels, ["ring_lesion", "ring_lesion"])
    shown = picture(found.picture)
    assert shown.shape == (SIDE, SIDE, 3)
    # The phantom is grey, so colour is heat.
    colour = shown.max(-1) - shown.min(-1)
    rows, columns = np.nonzero(mask)
    y, x = (round((v.mean() + 0.5) * SIDE / 64) for v in (rows, columns))
    assert np.hypot(*(np.array(np.unravel_index(colour.argmax(), colour.shape)) - (y, x))) < 20
    assert found.caption == "ring lesion"
    assert found.drop > 0.05
    assert len(found.picture) < 40_000, "small, because a page has dozens"


def test_a_sign_without_a_decisive_place_is_faint_and_labelled_not_localised(detector) -> None:
    grey = np.full((64, 64, 3), 90, np.uint8)
    (found,) = localised_signs(detector, grey, ["bright_rim"])
    assert found.caption == "bright rim (not localised)"
    shown = picture(found.picture)
    assert (shown.max(-1) - shown.min(-1)).max() < 10


def test_the_logit_scale_of_the_backbone_changes_no_map(detector, ring) -> None:
    scaled = copy.copy(detector)
    scaled.backbone = replace(detector.backbone, logit_scale=5 * detector.backbone.logit_scale)
    signs = ["ring_lesion", "bright_rim"]
    assert localised_signs(scaled, ring[0], signs) == localised_signs(detector, ring[0], signs)
    maps = locate(detector, ring[0], signs)
    for own in maps[0]:
        drawn = (draw_map(one, ring[0], own) for one in (detector, scaled))
        assert np.array_equal(*map(np.asarray, drawn))


def test_the_strength_of_a_map_is_in_deviations() -> None:
    heat = np.linspace(-0.1, 0.1, 9)
    assert map_strength(heat, 0.1).max() == 1, "a deviation is a large loss"
    assert np.isclose(map_strength(heat, 1.0).max(), 0.1 / LEAST_LOSS)
    assert np.allclose(map_strength(5 * heat, 5.0), map_strength(heat, 1.0))


def test_a_faint_map_has_no_outline() -> None:
    strength = np.zeros((20, 20))
    strength[5:12, 5:12] = 0.8
    grey = np.full((20, 20, 3), 90, np.uint8)
    assert (overlay(grey, strength) == 255).all(axis=-1).any()
    assert not (overlay(grey, strength, outline=False) == 255).all(axis=-1).any()


def test_a_gallery_is_localised_by_name_within_the_time_limit(detector, ring) -> None:
    pixels, _ = ring
    examples = [
        Example(
            picture=png_uri(pixels),
            name=name,
            anomaly=0.9,
            truth=["abscess"],
            findings=[("abscess", 0.9, 0.1)] if signs else [],
            uncertain=[],
            signs=[("abscess", sign, 0.2) for sign in signs],
            verdict="right",
        )
        for name, signs in (("a.png", ["ring_lesion", "haze"]), ("b.png", []))
    ]
    found = localised_gallery(detector, examples, [pixels, pixels])
    assert [s.sign for s in found["a.png"]] == ["ring_lesion", "haze"]
    assert found["b.png"] == []
    assert localised_gallery(detector, examples, [pixels, pixels], seconds=-1) == {}


def test_unknown_signs_are_refused(detector, ring) -> None:
    with pytest.raises(UserError, match="no sign 'rash'"):
        localised_signs(detector, ring[0], ["rash"])
