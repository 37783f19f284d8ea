"""From encoded bytes to the uint8 pixels of a backbone."""

import io
import warnings

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from sdmad.images import ImageSpec

LARGEST_IMAGE_PIXELS = 250_000_000
Image.MAX_IMAGE_PIXELS = None  # The check below comes first, and its limit is ours.
ImageFile.LOAD_TRUNCATED_IMAGES = False


class DecodeError(Exception):
    """Why bytes are not an image, in words for the failures table."""


def decode(content: bytes, spec: ImageSpec) -> np.ndarray:
    """Decode, turn upright, reduce to 8 bits and resize: (height, width, 3) uint8.

    Grey values of more than 8 bits are stretched from the image's minimum to its maximum. Raises
    `DecodeError` for anything that is not a whole image of reasonable size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return prepare(image, spec)
    except UnidentifiedImageError:
        what = "empty file" if not content else "unknown image format"
        raise DecodeError(what) from None
    except DecodeError:
        raise
    except Exception as error:
        # Decoders raise almost anything on damaged data: OSError, ValueError, SyntaxError, ...
        text = str(error).splitlines()[0] if str(error) else ""
        raise DecodeError(f"damaged image: {type(error).__name__}: {text}"[:300]) from None


def prepare(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """An opened image as `decode` returns it; raises what Pillow raises for damaged data."""
    width, height = image.size
    if width * height > LARGEST_IMAGE_PIXELS:
        raise DecodeError(f"too many pixels: {width} x {height}")
    if image.format == "JPEG":
        # Decode at a reduced size, at least twice the target: the resize below does the rest.
        image.draft(image.mode, (2 * spec.size[1], 2 * spec.size[0]))
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        upright = _stretch(upright)
    elif upright.mode in ("RGBA", "LA", "PA", "P"):
        upright = _on_black(upright)
    return spec.fit(upright)


def _stretch(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise DecodeError("no finite pixel values")
    low, high = values[finite].min(), values[finite].max()
    values = np.where(finite, values, low)
    return Image.fromarray((255 * (values - low) / max(high - low, 1e-12) + 0.5).astype(np.uint8))


def _on_black(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")
