"""Pixels against open_clip's own transforms, and what a user may change in them."""

import itertools
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from pydantic import BaseModel, TypeAdapter
from torchvision.transforms import Normalize, ToTensor

from sdmad.archive import preprocess
from sdmad.archive.preprocess import WINDOWS, ImageSpec, InputConfig, Window
from sdmad.inputs.validation import explain

MODES = ("shortest", "longest", "squash")
FILTERS = ("bilinear", "bicubic", "random")
GREY = ((0.5,) * 3, (0.2,) * 3)
SPEC = ImageSpec((32, 32), *GREY)


def noise(height: int, width: int, colour: bool) -> Image.Image:
    """Every pixel for itself, which shows an offset of a fraction of a pixel."""
    shape = (height, width, 3) if colour else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def by_open_clip(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """What open_clip does at inference, without the last two steps."""
    config = PreprocessCfg(
        size=spec.size,
        interpolation=spec.interpolation,
        resize_mode=spec.resize_mode,
        fill_color=spec.fill_color,
    )
    *steps, tensor, normalise = image_transform_v2(config, is_train=False).transforms
    assert isinstance(tensor, ToTensor)
    assert isinstance(normalise, Normalize)
    for step in steps:
        image = step(image)
    return np.asarray(image)


def differ(image: Image.Image, spec: ImageSpec) -> int:
    """The largest difference to open_clip, in grey levels."""
    ours = spec.fit(image)
    assert ours.shape == (*spec.size, 3)
    assert ours.dtype == np.uint8
    return int(np.abs(ours.astype(int) - by_open_clip(image, spec)).max())


def a_line_without_width(image: Image.Image, spec: ImageSpec) -> bool:
    """Whether open_clip rounds a side to 0 and fails."""
    ratio = max(image.height / spec.size[0], image.width / spec.size[1])
    sides = round(image.width / ratio), round(image.height / ratio)
    return spec.resize_mode == "longest" and 0 in sides


side = st.one_of(st.integers(1, 6), st.integers(1, 400))


@settings(max_examples=150, deadline=None)
@given(
    side,
    side,
    st.booleans(),
    st.sampled_from([(32, 32), (24, 40), (40, 24), (33, 17), (7, 7), (1, 1)]),
    st.sampled_from(MODES),
    st.sampled_from(FILTERS),
    st.sampled_from([0, 127, 255]),
)
def test_pixels_are_those_of_open_clip(height, width, colour, size, mode, method, fill) -> None:
    image, spec = noise(height, width, colour), ImageSpec(size, *GREY, method, mode, fill)
    if a_line_without_width(image, spec):
        with pytest.raises(ValueError, match="must be > 0"):
            by_open_clip(image, spec)
        assert spec.fit(image).shape == (*size, 3)
    else:
        assert differ(image, spec) <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(496, 768), (1024, 837), (225, 224), (224, 224), (223, 500)])
def test_pixels_of_usual_images_are_those_of_open_clip(size, mode) -> None:
    for input_size, colour in itertools.product([(224, 224), (336, 256)], [True, False]):
        assert differ(noise(*size, colour), ImageSpec(input_size, *GREY, "bicubic", mode)) <= 1


def test_a_line_of_pixels_does_not_become_a_huge_image(monkeypatch) -> None:
    """Resized whole it would have 3 billion pixels; the crop alone is computed, and looks alike."""
    line = Image.new("L", (1, 60_000), 77)
    assert (replace(SPEC, size=(224, 224)).fit(line) == 77).all()
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 300).astype(np.uint8), (100, 1)))
    for size in ((32, 32), (24, 40)):
        spec = replace(SPEC, size=size)
        whole = spec.fit(ramp).astype(int)
        monkeypatch.setattr(preprocess, "LARGEST_IMAGE_PIXELS", 1000)
        assert np.abs(spec.fit(ramp) - whole).max() <= 1
        monkeypatch.undo()


def test_palettes_and_bilevel_images_are_interpolated() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    grey = Image.fromarray(stripes)
    for mode in ("P", "1"):
        assert np.array_equal(SPEC.fit(grey.convert(mode)), SPEC.fit(grey))
    assert SPEC.fit(grey.convert("1"))[:, 4:-4].std() < 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"interpolation": "nearest"}, "interpolation is one of bilinear, bicubic, random"),
        ({"resize_mode": "pad"}, "resize_mode is one of shortest, longest, squash, not 'pad'"),
    ],
)
def test_unknown_names_are_refused(change, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(SPEC, **change)


def test_a_spec_survives_json() -> None:
    class Record(BaseModel):
        spec: ImageSpec

    spec = InputConfig(resize="pad", window=["lung", "bone", "brain"], stretch=(1, 99)).apply(SPEC)
    again = Record.model_validate_json(Record(spec=spec).model_dump_json()).spec
    assert again == spec
    assert hash(again) == hash(spec)
    assert isinstance(again.windows[0], Window)
    assert TypeAdapter(ImageSpec).validate_json(json.dumps(asdict(spec))) == spec
    for wrong in ({"colour": 3}, {"resize_mode": "pad"}):
        with pytest.raises(ValueError, match=r"colour|resize_mode"):
            TypeAdapter(ImageSpec).validate_python(asdict(spec) | wrong)


def test_nothing_configured_changes_nothing() -> None:
    for spec in (SPEC, replace(SPEC, resize_mode="longest", fill_color=127)):
        assert InputConfig().apply(spec) == spec


def test_pad_keeps_the_whole_image_on_black() -> None:
    """A white film of 2 x 1 on a backbone that would crop it, or pad it with grey."""
    film = Image.new("L", (64, 32), 255)
    for mode in MODES:
        spec = InputConfig(resize="pad").apply(replace(SPEC, resize_mode=mode, fill_color=127))
        shown = spec.fit(film)[..., 0]
        assert (shown[8:24] == 255).all()
        assert not shown[:8].any()
        assert not shown[24:].any()


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_the_configured_resizing_replaces_the_backbones(resize) -> None:
    backbone = replace(SPEC, resize_mode="longest")
    assert InputConfig(resize=resize).apply(backbone) == replace(SPEC, resize_mode=resize)


def test_windows_are_resolved_to_numbers() -> None:
    lung = InputConfig(window="lung").apply(SPEC)
    assert lung.windows == (Window(-600, 1500),)
    assert (lung.windows[0].low, lung.windows[0].high) == (-1350, 150)
    assert lung.hounsfield
    own = InputConfig(window={"center": 100, "width": 50}).apply(SPEC)
    assert own.windows == (Window(100, 50),)
    assert not own.hounsfield
    three = InputConfig(window=["lung", {"center": 1, "width": 2}, "bone"]).apply(SPEC)
    assert three.windows == (WINDOWS["lung"], Window(1, 2), WINDOWS["bone"])
    assert three.hounsfield


def test_a_configuration_survives_json() -> None:
    for window in (None, "brain", {"center": 1, "width": 2}, ["lung", "bone", Window(5, 6)]):
        config = InputConfig(window=window, jpeg_scaling=False)
        assert InputConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"resize": "crop"}, "resize: Input should be 'shortest', 'squash' or 'pad'"),
        ({"window": "lungs"}, "window: a window is one of lung, .*temporal_bone, or {center: num"),
        ({"window": {"center": 40}}, "{center: number, width: number}, not {'center': 40}"),
        ({"window": {"center": 40, "width": "80"}}, "{center: number, width: number}, not"),
        ({"window": {"center": 40, "width": 0}}, "width of a window is greater than 0, not 0"),
        ({"window": {"center": float("nan"), "width": 1}}, "center of a window is a number"),
        ({"window": ["lung", "bone"]}, "three for the three colour channels, not 2"),
        ({"window": ["lung", "bone", 7]}, "a window is one of lung, .* not 7"),
        ({"stretch": [99.5, 0.5]}, r"two percentiles from 0 to 100, the lower first, as \[0.5"),
        ({"stretch": [0, 101]}, "stretch: give two percentiles from 0 to 100"),
        ({"stretch": 5}, "give two percentiles .* not 5"),
        ({"stretch": None}, "give two percentiles .* not None"),
        ({"jpeg": False}, "unknown key 'jpeg'"),
    ],
)
def test_bad_values_are_one_sentence(keys, sentence) -> None:
    with pytest.raises(ValueError) as caught:
        InputConfig.model_validate(keys)
    assert "more)" not in explain(caught.value)
    assert re.search(sentence, explain(caught.value)), explain(caught.value)
