"""PNG, JPEG 2000 and PPM of more than 8 bits, against numpy."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from sdmad.archive.decode import decode, prepare
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec
from tests.archive.test_tiffs import ALPHA, BYTES, RAMP, RGB, stretched

SPEC = ImageSpec((64, 64), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
GREY, GREY_ALPHA, COLOUR, COLOUR_ALPHA = 0, 4, 2, 6
DEPTHS = [(257, 65_535), (16, 4095), (4, 1023), (1, 255)]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, kind: int, extra: bytes = b"") -> bytes:
    """A PNG of 8 or 16 bits; `extra` are chunks before the pixels."""
    height, width = values.shape[:2]
    bits = 8 * values.itemsize
    rows = values.astype(f">u{values.itemsize}").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def close(content: bytes, expected: np.ndarray, within: float = 0.6) -> None:
    if expected.ndim == 2:
        expected = expected[..., None]
    shown = decode(content, SPEC)
    assert np.abs(shown - expected.astype(float)).max() <= within
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(prepare(image, SPEC), shown)


@pytest.mark.parametrize(("factor", "white"), DEPTHS)
def test_png_colours_of_16_bits_are_scaled_by_their_depth(factor, white) -> None:
    deep = RGB.astype(np.uint16) * factor
    close(png(deep, COLOUR), deep / white * 255)
    opaque = np.dstack([deep, np.full((64, 64), 65_535, np.uint16)])
    close(png(opaque, COLOUR_ALPHA), deep / white * 255)
    through = np.dstack([deep, ALPHA.astype(np.uint16) * factor])
    alpha = ALPHA[..., None] * (factor / white)
    close(png(through, COLOUR_ALPHA), deep / white * 255 * alpha, 1.5)


def test_png_greys_of_16_bits_with_alpha_are_stretched_without_what_is_transparent() -> None:
    deep = (RAMP * 10).astype(np.uint16)
    close(png(np.dstack([deep, np.full_like(deep, 65_535)]), GREY_ALPHA), stretched(deep))
    half = np.where(RAMP < 2048, 0, 65_535).astype(np.uint16)
    low, high = np.percentile(deep[32:], (0.5, 99.5))
    expected = np.clip((deep - low) / (high - low) * 255, 0, 255)
    expected[:32] = 0
    close(png(np.dstack([deep, half]), GREY_ALPHA), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_transparent_colour_of_png_is_black(kind) -> None:
    factor = 257 if kind == np.uint16 else 1
    for values, mode in ((BYTES, GREY), (RGB, COLOUR)):
        deep = values.astype(kind) * factor
        chosen = deep[40, 50]
        name = struct.pack(f">{chosen.size}H", *np.ravel(chosen).tolist())
        matches = (deep == chosen) if mode == GREY else (deep == chosen).all(axis=-1)[..., None]
        shown = stretched(deep) if (mode, kind) == (GREY, np.uint16) else values
        close(png(deep, mode, chunk(b"tRNS", name)), np.where(matches, 0, shown), 1.6)


def test_gamma_and_significant_bits_of_png_are_not_applied() -> None:
    extra = chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"sBIT", b"\x08\x08\x08")
    close(png(RGB, COLOUR, extra), RGB)
    close(png(RGB.astype(np.uint16) * 257, COLOUR, extra), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_of_16_bits_is_turned_upright(orientation) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    extra = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    plain = Image.open(io.BytesIO(png(RGB, COLOUR, extra)))
    close(
        png(RGB.astype(np.uint16) * 257, COLOUR, extra), np.asarray(ImageOps.exif_transpose(plain))
    )


def test_damaged_png_of_16_bits_is_a_reason() -> None:
    whole = png(RGB.astype(np.uint16) * 257, COLOUR)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (whole[: len(whole) // 2], bytes(flipped)):
        with pytest.raises(DecodeError, match="damaged image"):
            decode(content, SPEC)


@pytest.mark.parametrize("boxes", ["J2K", "JP2"])
@pytest.mark.parametrize(
    ("bits", "factor", "white"), [(16, 257, 65_535), (12, 16, 4095), (16, 16, 4095)]
)
def test_jpeg_2000_of_more_than_8_bits_keeps_its_values(bits, factor, white, boxes) -> None:
    options = {"level": 0, "reversible": True, "bitspersample": bits, "codecformat": boxes}
    deep = RGB.astype(np.uint16) * factor
    close(imagecodecs.jpeg2k_encode(deep, mct=True, **options), deep / white * 255)
    grey = (RAMP * (factor // 16)).astype(np.uint16)
    close(imagecodecs.jpeg2k_encode(grey, **options), stretched(grey))
    if bits == 16:
        signed = (RAMP - 2000).astype(np.int16)
        close(imagecodecs.jpeg2k_encode(signed, **options), stretched(signed))


def test_jpeg_2000_of_four_deep_channels_is_a_reason() -> None:
    four = np.dstack([RGB, ALPHA]).astype(np.uint16) * 257
    content = imagecodecs.jpeg2k_encode(four, level=0, reversible=True, codecformat="JP2")
    with pytest.raises(DecodeError, match="JPEG 2000 of 4 channels of 16 bits"):
        decode(content, SPEC)


@pytest.mark.parametrize(
    ("largest", "factor", "white"), [(65_535, 257, 65_535), (65_535, 16, 4095), (1000, 3, 1000)]
)
def test_ppm_colours_of_16_bits_are_scaled(largest, factor, white) -> None:
    deep = RGB.astype(np.uint16) * factor
    content = b"P6 64 64 %d\n" % largest + deep.astype(">u2").tobytes()
    close(content, deep / white * 255)
