"""Samples of more than 8 bits in PNG, JPEG 2000 and PPM, which Pillow cuts to 8 bits or shifts."""

from typing import IO

import imagecodecs
import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from sdmad.archive.greys import colours, grey, linear, on_black
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec

_CODESTREAM = b"\xff\x4f\xff\x51"  # ISO/IEC 15444-1, A.4: SOC and SIZ
_SYCC = b"colr\1\0\0\0\0\0\x12"  # I.5.3.3, an enumerated colour space


def deep_image(image: Image.Image, spec: ImageSpec) -> Image.Image | None:
    """An opened file at 8 bits, upright, on black; None if Pillow reads it as it is."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or not image.fp:
        return None  # decoded before, or no file
    if image.format == "PNG" and isinstance(image, PngImagePlugin.PngImageFile):
        if image.is_animated or ";16" not in str(image.tile[0].args):
            return None
        content = file_content(image.fp)
        shown = _shown(imagecodecs.png_decode(content), 16, spec)
        # Pillow decodes the whole file to look for a chunk behind the pixels.
        return _upright(shown, image) if b"eXIf" in content else shown
    if image.format == "JPEG2000":
        content = file_content(image.fp)
        bits = _precision(content)
        if bits <= 8:
            return None
        if _SYCC in content:
            raise DecodeError(f"JPEG 2000 of YCbCr of {bits} bits, which is not read")
        values = imagecodecs.jpeg2k_decode(content)
        if values.ndim == 3 and values.shape[-1] != 3:
            what = f"JPEG 2000 of {values.shape[-1]} channels of {bits} bits"
            raise DecodeError(f"{what}, which is not read")
        return _upright(_shown(values, bits, spec), image)
    if image.format == "PPM" and image.mode == "RGB" and image.tile[0].codec_name == "ppm":
        return _ppm(file_content(image.fp), image, spec)
    return None


def _ppm(content: bytes, image: ImageFile.ImageFile, spec: ImageSpec) -> Image.Image | None:
    """Colours of 16 bits (P6); None if they have 8 bits or are short."""
    tile, (width, height) = image.tile[0], image.size
    largest = tile.args[-1] if isinstance(tile.args, tuple) else 0
    size = 3 * width * height
    if not isinstance(largest, int) or largest < 256 or len(content) < tile.offset + 2 * size:
        return None
    values = np.frombuffer(content, ">u2", size, tile.offset).reshape(height, width, 3)
    if largest == 65535:
        return Image.fromarray(colours(values, 16, spec.stretch))
    return Image.fromarray(linear(values, 0, largest))


def file_content(file: IO[bytes]) -> bytes:
    """All bytes of an open file, whose position stays."""
    position = file.tell()
    file.seek(0)
    try:
        return file.read()
    finally:
        file.seek(position)


def _precision(content: bytes) -> int:
    """Bits of the deepest component of JPEG 2000; 0 if it is not found."""
    start = content.find(_CODESTREAM)
    if start < 0:
        return 0
    # A.5.1: Csiz at 40 bytes from the start of the codestream, then 3 bytes for each component.
    count = int.from_bytes(content[start + 40 : start + 42], "big")
    depths = content[start + 42 : start + 42 + 3 * count : 3]
    return max(((depth & 127) + 1 for depth in depths), default=0)


def _shown(values: np.ndarray, bits: int, spec: ImageSpec) -> Image.Image:
    """Samples (H, W) or (H, W, n): grey or RGB, for even n with alpha."""
    if values.ndim == 2:
        values = values[..., None]
    channels = values.shape[-1]
    alpha = values[..., -1] if channels % 2 == 0 else None
    if channels < 3:
        shown = grey(values[..., 0], bits, spec, None if alpha is None else alpha > 0)
    else:
        shown = colours(values[..., :3], bits, spec.stretch)
    return Image.fromarray(shown if alpha is None else on_black(shown, alpha, bits))


def _upright(shown: Image.Image, image: Image.Image) -> Image.Image:
    shown.getexif().update(image.getexif())
    return ImageOps.exif_transpose(shown)
