import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sdmad.archive.decode import decode, prepare
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec, InputConfig
from sdmad.phantoms.task import draw_example
from tests.helpers import encoded

SPEC = ImageSpec((32, 48), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")


def save(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def photograph(width: int, height: int, colour: bool = True, noise: float = 5) -> Image.Image:
    """A phantom, enlarged, with the grain of a sensor."""
    rng = np.random.default_rng(width)
    phantom = Image.fromarray(draw_example(3, "test").image)
    grey = np.asarray(phantom.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    if colour:  # as an eye's background: red and bright, blue and dark
        grey = grey[..., None] * (1, 0.6, 0.3) + (0, 10, 40)
    return Image.fromarray((grey + rng.normal(0, noise, grey.shape)).clip(0, 255).astype(np.uint8))


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey levels of values from `low` (black) to `high` (white)."""
    return np.clip((values.astype(float) - low) / (high - low) * 255, 0, 255)


def shown(values: np.ndarray, spec: ImageSpec = SPEC, format: str = "TIFF") -> np.ndarray:
    """The grey levels of an image of the size of `SPEC`, which is not resized."""
    pixels = decode(save(Image.fromarray(values), format), spec)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_three_channels_in_the_size_of_the_backbone(mode) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"
    pixels = decode(save(Image.new(mode, (100, 60)), format), SPEC)
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint8


def grain(kind: type) -> np.ndarray:
    return np.random.default_rng(0).normal(20_000, 3000, (32, 48)).astype(kind)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (5, 90), (0, 100)])
def test_more_than_eight_bits_are_stretched_between_percentiles(kind, percentiles) -> None:
    values = grain(kind)
    expected = between(values, *np.percentile(values, percentiles))
    spec = InputConfig(stretch=percentiles).apply(SPEC)
    assert np.abs(shown(values, spec) - expected).max() <= 0.51
    if percentiles == (0.5, 99.5):
        assert np.array_equal(shown(values), shown(values, spec)), "the default"


def test_wide_integers_keep_small_differences() -> None:
    """Single precision would round them to multiples of 128."""
    values = 2_000_000_000 + np.arange(32 * 48, dtype=np.int32).reshape(32, 48)
    assert np.abs(shown(values) - between(values, *np.percentile(values, (0.5, 99.5)))).max() < 1


def test_a_saturated_marker_does_not_turn_tissue_black() -> None:
    values = np.tile(np.linspace(0, 1000, 48).astype(np.uint16), (32, 1))
    values[2, 2:8] = 65535  # a lead letter: 0.4 % of the image
    tissue = np.delete(shown(values, format="PNG"), 2, axis=0)
    assert tissue.std() > 60
    minimum_to_maximum = InputConfig(stretch=(0, 100)).apply(SPEC)
    assert np.delete(shown(values, minimum_to_maximum), 2, axis=0).max() < 5


def test_a_constant_image_is_black_and_a_nearly_constant_one_keeps_its_values() -> None:
    values = np.full((32, 48), 30_000, np.uint16)
    assert not shown(values).any()
    values[0, :3] = 30_050, 30_100, 30_025  # fewer than 0.5 %: both percentiles are 30,000
    assert shown(values)[0, :4].tolist() == [128, 255, 64, 0]
    assert not shown(values)[1:].any()


def test_two_narrow_peaks_are_both_kept() -> None:
    """Air and soft tissue: as documented, the tissue's own contrast is small without a window."""
    values = np.zeros((32, 48), np.uint16)
    values[:, 24:] = 1000 + np.arange(24)
    grey = shown(values)
    assert not grey[:, :24].any()
    assert grey[:, 24:].min() > 240
    window = InputConfig(window={"center": 1011.5, "width": 23}).apply(SPEC)
    assert np.array_equal(np.ptp(shown(values, window), axis=1), np.full(32, 255))


def test_a_float_tiff_with_nan_pixels_is_read() -> None:
    values = np.full((32, 48), 0.5, np.float32)
    values[0, 0], values[0, 1], values[1, 0] = np.nan, 1.0, 0.0
    values[0, 2] = np.inf
    grey = shown(values)
    assert grey[0, 1] == 255
    assert grey[10, 10] == 128
    assert grey[0, 0] == grey[0, 2] == 0


def test_a_window_of_ones_own_applies_to_more_than_eight_bits_and_a_preset_does_not() -> None:
    values = grain(np.uint16)
    own = InputConfig(window={"center": 20_000, "width": 4000}).apply(SPEC)
    assert np.abs(shown(values, own) - between(values, 18_000, 22_000)).max() <= 0.51
    assert np.array_equal(shown(values, InputConfig(window="lung").apply(SPEC)), shown(values))
    eight = (values >> 7).astype(np.uint8)
    assert np.array_equal(shown(eight, own), eight)


def test_three_windows_are_three_channels() -> None:
    values = grain(np.uint16)
    windows = [{"center": center, "width": 6000} for center in (16_000, 20_000, 24_000)]
    pixels = decode(save(Image.fromarray(values)), InputConfig(window=windows).apply(SPEC))
    for channel, center in enumerate((16_000, 20_000, 24_000)):
        expected = between(values, center - 3000, center + 3000)
        assert np.abs(pixels[..., channel] - expected).max() <= 0.51


def test_transparent_pixels_are_black() -> None:
    pixels = decode(save(Image.new("RGBA", (48, 32), (255, 255, 255, 0))), SPEC)
    assert not pixels.any()


def test_exif_orientation_is_applied() -> None:
    image = Image.new("L", (48, 32))
    image.paste(255, (0, 0, 48, 8))  # a bright stripe on top
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    upright = decode(save(image.rotate(180), "JPEG", exif=exif, quality=95), SPEC)[..., 0]
    assert upright[:6].mean() > 200 > 50 > upright[20:].mean()


def in_full(spec: ImageSpec) -> ImageSpec:
    return InputConfig(jpeg_scaling=False).apply(spec)


def test_without_scaling_a_jpeg_is_decoded_in_full() -> None:
    image = photograph(1600, 1200)
    content = save(image, "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as opened:
        whole = SPEC.fit(opened)
    assert np.array_equal(decode(content, in_full(SPEC)), whole)
    assert not np.array_equal(decode(content, SPEC), whole), "this one is decoded at 1/8"


@pytest.mark.parametrize(
    ("size", "mode"),
    [((896, 896), "shortest"), ((1793, 1501), "squash"), ((1010, 1949), "longest")],
)
def test_jpeg_at_reduced_size_stays_within_its_bound_of_full_decoding(size, mode) -> None:
    """The bound that the docstring of `decode._pixels` and docs/input.md state."""
    for colour, noise in ((True, 0), (True, 20), (False, 20)):
        content = save(photograph(*size, colour, noise), "JPEG", quality=90)
        for side, method in ((224, "bicubic"), (64, "bilinear")):
            spec = ImageSpec((side, side), (0.5,) * 3, (0.2,) * 3, method, mode)
            reduced, whole = decode(content, spec), decode(content, in_full(spec))
            apart = np.abs(reduced.astype(int) - whole)
            assert apart.max() <= 12
            assert apart.mean() <= 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_size_keeps_the_place_of_every_pixel(orientation) -> None:
    """Sides that 8 does not divide, edges from black to white, upright and on its side. Without
    care for the last, partial pixel the difference is 45."""
    image = Image.new("L", (1509, 1017))
    draw = ImageDraw.Draw(image)
    for x in range(0, 1600, 100):
        draw.rectangle((x, 0, x + 49, 1017), 255)
    for y in range(0, 1100, 100):
        draw.rectangle((0, y, 1509, y + 49), 120)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = save(image, "JPEG", exif=exif, quality=95)
    for size in ((62, 62), (40, 62)):
        spec = replace(SPEC, size=size)
        apart = np.abs(decode(content, spec).astype(int) - decode(content, in_full(spec)))
        assert apart.max() <= 20


def test_the_callers_image_stays_as_it_is(tmp_path) -> None:
    content = save(photograph(1600, 1200), "JPEG", quality=95)
    (tmp_path / "eye.jpg").write_bytes(content)
    for source in (io.BytesIO(content), tmp_path / "eye.jpg"):
        with Image.open(io.BytesIO(content)) as untouched, Image.open(source) as image:
            position = image.fp.tell()
            assert np.array_equal(prepare(image, SPEC), decode(content, SPEC))
            assert image.fp.tell() == position
            assert image.size == (1600, 1200)
            assert np.array_equal(image, untouched)


def test_what_the_caller_has_done_to_an_image_counts() -> None:
    content = save(photograph(1600, 1200), "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as painted:
        painted.paste((0, 255, 0), (0, 0, 1600, 1200))
        assert (prepare(painted, SPEC) == (0, 255, 0)).all()
    with Image.open(io.BytesIO(content)) as small:
        small.draft("RGB", (200, 150))
        assert np.array_equal(prepare(small, SPEC), SPEC.fit(small))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not an image", "unknown image format"),
        (encoded(size=(200, 200), format="JPEG")[:300], "damaged image"),
        (encoded(size=(200, 200))[:-40], "damaged image"),
    ],
)
def test_damaged_images_have_a_reason(content, reason) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(content, SPEC)


FITS = b"".join(
    line.ljust(80)
    for line in (
        *(b"SIMPLE  =                    T", b"BITPIX  =                   16"),
        *(b"NAXIS   =                    2", b"NAXIS1  =                    2"),
        *(b"NAXIS2  =                    1", b"END"),
    )
).ljust(2880) + bytes(2880)


@pytest.mark.parametrize("format", ["SGI", "IM", "EPS", "FITS"])
def test_formats_that_pillow_reads_wrongly_or_by_other_programs_are_refused(format) -> None:
    content = FITS if format == "FITS" else save(Image.new("L", (8, 8)), format)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == format
    with pytest.raises(DecodeError, match="unknown image format"):
        decode(content, SPEC)


def test_premultiplied_alpha_is_laid_on_black_once() -> None:
    plain = Image.new("LA", (48, 32), (200, 100))
    for mode in ("LA", "La"):
        assert np.abs(prepare(plain.convert(mode), SPEC).astype(int) - 200 * 100 / 255).max() <= 1
    colours = Image.new("RGBA", (48, 32), (200, 100, 50, 100))
    for mode in ("RGBA", "RGBa"):
        found = prepare(colours.convert(mode), SPEC)[0, 0]
        assert np.abs(found - np.array([200, 100, 50]) * 100 / 255).max() <= 1


def test_too_many_pixels_are_refused_before_decoding() -> None:
    """By the size in the header: what follows it is not enough, which decoding would notice."""
    small = save(Image.new("1", (60, 60)), "PNG")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with pytest.raises(DecodeError, match="too many pixels: 60000 x 60000"):
        decode(bomb, SPEC)


def test_centre_crop_and_padding_follow_the_resize_mode() -> None:
    image = Image.new("L", (96, 32), 0)
    image.paste(255, (32, 0, 64, 32))
    square = {"size": (32, 32), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    cropped = ImageSpec(**square, resize_mode="shortest").fit(image)
    padded = ImageSpec(**square, resize_mode="longest").fit(image)
    assert cropped.min() > 240
    assert padded[0].max() == 0
