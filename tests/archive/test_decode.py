import io

import numpy as np
import pytest
from PIL import Image

from sdmad.archive.decode import decode
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec
from tests.helpers import encoded

SPEC = ImageSpec((32, 48), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")


def save(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_three_channels_in_the_size_of_the_backbone(mode) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"
    pixels = decode(save(Image.new(mode, (100, 60)), format), SPEC)
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bits_are_stretched_and_not_clipped() -> None:
    values = np.linspace(0, 4095, 48 * 32).reshape(32, 48).astype(np.uint16)
    pixels = decode(save(Image.fromarray(values)), SPEC)[..., 0]
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert len(np.unique(pixels)) > 200


def test_a_float_tiff_with_nan_pixels_is_read() -> None:
    values = np.full((32, 48), 0.5, np.float32)
    values[0, 0], values[0, 1], values[1, 0] = np.nan, 1.0, 0.0
    pixels = decode(save(Image.fromarray(values), "TIFF"), SPEC)[..., 0]
    assert pixels[0, 1] == 255
    assert pixels[10, 10] == 128


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


def test_decoding_large_jpegs_at_reduced_size_keeps_their_values() -> None:
    ramp = np.tile(np.linspace(0, 255, 1600, dtype=np.uint8), (1200, 1))
    pixels = decode(save(Image.fromarray(ramp), "JPEG", quality=95), SPEC)[..., 0].astype(int)
    expected = np.linspace(0, 255, 48)
    assert np.abs(pixels[16] - expected).max() < 6


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


def test_too_many_pixels_are_refused_before_decoding() -> None:
    bomb = save(Image.new("1", (60_000, 60_000)), "PNG")
    assert len(bomb) < 1_000_000
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
