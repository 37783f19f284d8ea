"""Maps of signs: with known answers, with every kind of tower, and on phantoms."""

import numpy as np
import pytest
import torch
from open_clip.model import CustomTextCLIP
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import nn

from sdmad import Detector
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import wrap
from sdmad.errors import UserError
from sdmad.inputs.catalog import parse_catalog
from sdmad.localisation import (
    PLACES,
    draw_map,
    locate,
    occlusion_maps,
    overlay,
    place_windows,
    upsample,
)
from sdmad.method.adapter import AdapterConfig, TowerAdapterConfig
from sdmad.method.model import SignModel
from sdmad.phantoms.task import draw_example
from tests.backbones.test_towers import EMBED, TEXT, VIT, biomed_clip, own_clip, token_ids
from tests.helpers import draw_adapters

TINY = parse_catalog(
    {
        "name": "tiny",
        "modality": "noise",
        "signs": {name: {"prompts": [name]} for name in ("round", "flat", "even")},
        "categories": {"one": {"signs": ["round", "flat"]}},
        "normal": {"signs": ["even"]},
    },
    "tiny",
)
FOCAL = ("dark_cyst", "bright_nodule", "ring_lesion", "spiculated_mass", "fissure", "dark_specks")


class Templates:
    """A stand-in for `SignModel`: the embedding of an image is its red channel, times k + 1 for
    seed k. The embedding of a sign is then an image too."""

    def __init__(self, seeds: int) -> None:
        self.seeds = seeds

    def image_activations(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return images[:, 0].flatten(1), None

    def image_embeddings(self, activations: torch.Tensor) -> torch.Tensor:
        return torch.stack([(k + 1) * activations for k in range(self.seeds)])


def spot(row: int, column: int, size: tuple[int, int]) -> torch.Tensor:
    """An image that is dark but for 2 x 2 bright pixels at the centre of one place."""
    image = torch.zeros(size)
    y, x = (round((k + 0.5) * side / PLACES) for k, side in zip((row, column), size, strict=True))
    image[y - 1 : y + 1, x - 1 : x + 1] = 1
    return image


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_map_peaks_where_the_sign_is_and_nowhere_else(size) -> None:
    """Two spots; each sign is one of them."""
    places = [(1, 6), (5, 2)]
    spots = torch.stack([spot(*place, size) for place in places])
    image = spots.sum(0).expand(1, 3, *size)
    maps = occlusion_maps(Templates(2), spots.flatten(1).expand(2, -1, -1), image)
    assert maps.shape == (1, 2, PLACES, PLACES)
    for own, place in zip(maps[0], places, strict=True):
        assert np.unravel_index(int(own.argmax()), own.shape) == place
        others = own.clone()
        others[place] = 0
        assert others.abs().max() < 0.1 * own.max()
    # Most of the four bright pixels is lost, once in seed 0 and twice in seed 1: 1.5 on average.
    assert 0.6 * 4 * 1.5 < maps.max() < 4 * 1.5


def test_a_map_is_negative_where_hiding_makes_the_image_more_similar_to_the_sign() -> None:
    dark = 1 - spot(3, 3, (64, 64))
    hidden = spot(3, 3, (64, 64)).flatten().expand(1, 1, -1)
    maps = occlusion_maps(Templates(1), hidden, dark.expand(1, 3, 64, 64))
    assert maps.min() == maps[0, 0, 3, 3] < -1
    assert maps.max() < 1e-3


def test_maps_of_an_even_image_are_zero(backbone, catalog) -> None:
    model = SignModel(backbone, catalog, AdapterConfig(), 1)
    grey = backbone.pixels(np.full((1, 64, 64, 3), 120, np.uint8))
    maps = occlusion_maps(model, model.sign_embeddings(), grey)
    assert maps.abs().max() < 1e-5, "hiding a place changes nothing"


def test_a_window_hides_its_own_place_and_not_the_next() -> None:
    windows = place_windows(PLACES, (64, 80))
    assert windows.shape == (PLACES**2, 64, 80)
    assert windows.min() >= 0
    for k, window in enumerate(windows):
        y, x = 8 * (k // PLACES) + 4, 10 * (k % PLACES) + 5
        assert window[y, x] > 0.9 * window.max() > 0.8
    middle = windows[PLACES * 3 + 3]
    assert middle[28, 45] < 0.05, "the next place to the right"


def test_upsampled_maps_keep_the_position_of_places() -> None:
    maps = np.zeros((1, 1, 8, 8), np.float32)
    maps[0, 0, 2, 5] = 1
    heat = upsample(maps, (32, 64))
    assert heat.shape == (1, 1, 32, 64)
    y, x = np.unravel_index(heat.argmax(), (32, 64))
    assert 8 <= y < 12
    assert 40 <= x < 48
    assert heat.max() <= 1
    assert np.allclose(heat[..., 9, 43], heat[..., 10, 44]), "symmetric about the centre"


@pytest.mark.parametrize("kind", ["open_clip", "avg_pool", "siglip_text", "cls", "mean"])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_every_kind_of_tower_has_maps(kind, blocks, tmp_path) -> None:
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {}
    if kind == "siglip_text":
        text = TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
        made["clip"] = CustomTextCLIP(EMBED, VIT, text)
    elif kind in ("cls", "mean"):
        poolers = {"cls": "cls_last_hidden_state_pooler", "mean": "mean_pooler"}
        made["clip"] = biomed_clip(tmp_path, poolers[kind])
    else:
        averaged = {"pool_type": "avg", "final_ln_after_pool": True} if kind == "avg_pool" else {}
        made["clip"] = own_clip(**averaged)
    backbone = wrap(made["clip"], lambda texts: token_ids()[: len(texts)], BackboneConfig(), "cpu")
    towers = TowerAdapterConfig(blocks=blocks, bottleneck=8)
    model = SignModel(backbone, TINY, AdapterConfig(image=towers, text=towers), 2)
    draw_adapters(model.image_adapters, 2)
    images = torch.randn(2, 3, *backbone.spec.size)
    with torch.no_grad():
        signs = model.sign_embeddings()
    maps = occlusion_maps(model, signs, images, places=3)
    assert maps.shape == (2, 3, 3, 3)
    assert maps.isfinite().all()
    assert (maps.flatten(2).std(-1) > 1e-5).all(), "places differ"
    alone = [occlusion_maps(model.seed(k), signs[k : k + 1], images, 3) for k in range(2)]
    assert torch.allclose(maps, (alone[0] + alone[1]) / 2, atol=1e-5)


@pytest.fixture(scope="module")
def detector(training_run) -> Detector:
    return Detector.load(str(training_run))


def test_unknown_signs_and_what_is_no_image_are_refused(detector) -> None:
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(UserError, match="phantoms has no sign 'rash'; its signs are notch"):
        locate(detector, pixels, ["haze", "rash"])
    with pytest.raises(TypeError, match="image 0 is an array of float32, whose range"):
        locate(detector, pixels.astype(np.float32), ["haze"])
    assert locate(detector, pixels[:0], ["haze"]).shape == (0, 1, PLACES, PLACES)


def test_images_of_any_form_have_the_maps_of_their_pixels(detector) -> None:
    image = Image.fromarray(draw_example(3, "test").image).resize((150, 150))
    pixels = detector.pixels([image])
    assert np.array_equal(locate(detector, image, ["haze"], 2), locate(detector, pixels, "haze", 2))


def test_overlays_colour_the_heat_and_outline_half_of_the_full_colour() -> None:
    pixels = np.full((40, 40, 3), 100, np.uint8)
    strength = np.zeros((40, 40))
    strength[10:20, 10:20] = 1
    shown = overlay(pixels, strength).astype(int)
    assert (shown[0, 0] == 80).all()
    assert (shown[10, 10:20] == 255).all(), "the outline is white"
    assert shown[15, 15, 0] > shown[15, 15, 2] + 40, "the heat is warm"


def test_a_map_is_drawn_over_what_the_backbone_sees(detector) -> None:
    example = next(
        e for e in (draw_example(k, "test") for k in range(100)) if set(e.masks) == {"ring_lesion"}
    )
    large = Image.fromarray(example.image).resize((256, 256))
    maps = locate(detector, large, "ring_lesion")
    assert maps.shape == (1, 1, PLACES, PLACES)
    drawn = draw_map(detector, large, maps[0, 0], side=128)
    assert drawn.size == (128, 128)
    shown = np.asarray(drawn).astype(int)
    colour = shown.max(-1) - shown.min(-1)  # The phantom is grey, so colour is heat.
    there = np.argwhere(example.masks["ring_lesion"]).mean(0) * 2
    assert np.hypot(*(np.array(np.unravel_index(colour.argmax(), colour.shape)) - there)) < 18
    even = draw_map(detector, large, np.zeros((PLACES, PLACES), np.float32))
    assert np.ptp(np.asarray(even), axis=-1).max() == 0, "no heat, no colour"


def test_maps_have_the_order_of_images_and_signs(detector) -> None:
    examples = [draw_example(k, "test") for k in range(2)]
    pixels = np.stack([np.repeat(e.image[..., None], 3, axis=2) for e in examples])
    maps = locate(detector, pixels, ["haze", "notch"], places=4)
    assert maps.shape == (2, 2, 4, 4)
    assert maps.dtype == np.float32
    swapped = locate(detector, pixels[::-1], ["notch", "haze"], places=4)
    assert np.allclose(maps, swapped[::-1, ::-1], atol=1e-6)


def test_the_pointing_game_on_phantoms_is_far_above_chance(detector) -> None:
    """arXiv 1608.00507 on 100 images. A hit is a maximum within four pixels of the mask; chance is
    the share of the image within four pixels of it."""
    examples = [draw_example(k, "test", seed=7) for k in range(100)]
    examples = [e for e in examples if set(FOCAL) & set(e.masks)]
    pixels = np.stack([np.repeat(e.image[..., None], 3, axis=2) for e in examples])
    heat = upsample(locate(detector, pixels, FOCAL), (64, 64))
    hits, chance, centre = [], [], []
    for example, maps in zip(examples, heat, strict=True):
        for sign, own in zip(FOCAL, maps, strict=True):
            if sign in example.masks:
                near = distance_transform_edt(~example.masks[sign]) <= 4
                hits.append(near.flat[own.argmax()])
                chance.append(near.mean())
                centre.append(near[32, 32])
    assert len(hits) >= 40
    assert np.mean(hits) > 0.6
    assert np.mean(hits) > 5 * np.mean(chance)
    assert np.mean(hits) > np.mean(centre) + 0.2
