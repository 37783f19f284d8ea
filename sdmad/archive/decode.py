"""From encoded bytes to the uint8 pixels of a backbone.

Pillow reads PNG, JPEG, TIFF and others, `sdmad.archive.dicom` reads DICOM. Files of several frames
(DICOM, the pages of a TIFF) are one image a frame; of other formats the first frame counts.
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from sdmad.archive import dicom
from sdmad.archive.greys import stretch
from sdmad.archive.limits import LARGEST_IMAGE_PIXELS, MOST_FRAMES, DecodeError, describe
from sdmad.archive.preprocess import ImageSpec

Image.MAX_IMAGE_PIXELS = None  # The check below comes first, and its limit is ours.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# TIFF 6.0, NewSubfileType: a reduced copy (bit 0) or a mask (bit 2) of another page.
SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101


@dataclass(frozen=True)
class Frame:
    """One image of a file: `number` from 1 where the file has several, else None; `pixels`
    (height, width, 3) uint8, or the `reason` why there are none."""

    number: int | None
    pixels: np.ndarray | None
    reason: str = ""


class _File(Protocol):
    """An opened file: how many frames it has, and each as `ImageSpec.fit` takes it."""

    @property
    def count(self) -> int: ...

    def frame(self, index: int) -> Image.Image: ...


def frames(content: bytes, spec: ImageSpec) -> Iterator[Frame]:
    """Every image of a file; one frame without pixels for a file that is none.

    Never raises for what is in the file.
    """
    try:
        file = _open(content, spec)
    except DecodeError as error:
        yield Frame(None, None, str(error))
        return
    for index in range(file.count):
        number = index + 1 if file.count > 1 else None
        try:
            yield Frame(number, _fitted(file, index, spec))
        except DecodeError as error:
            yield Frame(number, None, str(error))


def decode(content: bytes, spec: ImageSpec, frame: int | None = None) -> np.ndarray:
    """One image, upright, reduced to 8 bits and resized: (height, width, 3) uint8.

    Grey values of more than 8 bits are stretched from the image's minimum to its maximum, in DICOM
    by its window where it has one. `frame` is needed for files with several. Raises `DecodeError`
    for anything that is not a whole image of reasonable size.
    """
    file = _open(content, spec)
    if frame is None and file.count > 1:
        raise DecodeError(f"the file has {file.count} frames; name one with #frame=<number>")
    if frame is not None and frame > file.count:
        raise DecodeError(f"the file has {file.count} frames and no frame {frame}")
    return _fitted(file, (frame or 1) - 1, spec)


def count_frames(content: bytes) -> int:
    """How many images a file holds, from its headers; 1 for what cannot be read."""
    try:
        return _open(content, None).count
    except DecodeError:
        return 1


def prepare(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """An opened image as `decode` returns it; raises what Pillow raises for damaged data."""
    return spec.fit(_eight_bits(image, spec))


def _open(content: bytes, spec: ImageSpec | None) -> _File:
    if not content:
        raise DecodeError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dicom.is_dicom(content):
                return dicom.DicomFile(content)
            try:
                return _PillowFile(content, spec)
            except UnidentifiedImageError:
                if dicom.may_be_dicom(content):
                    return dicom.DicomFile(content)
                raise DecodeError("unknown image format") from None
    except DecodeError:
        raise
    except Exception as error:
        # Decoders raise almost anything on damaged data: OSError, ValueError, SyntaxError, ...
        raise DecodeError(f"damaged image: {describe(error)}") from None


def _fitted(file: _File, index: int, spec: ImageSpec) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return spec.fit(file.frame(index))
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"damaged image: {describe(error)}") from None


class _PillowFile:
    """A file that Pillow knows."""

    def __init__(self, content: bytes, spec: ImageSpec | None) -> None:
        self.spec = spec
        self.image = Image.open(io.BytesIO(content))
        self.pages = self._pages()

    def _pages(self) -> list[int]:
        if not isinstance(self.image, TiffImagePlugin.TiffImageFile):
            return [0]
        count = self.image.n_frames
        if count > MOST_FRAMES:
            raise DecodeError(f"too many frames: {count}")
        pages = []
        for page in range(count if count > 1 else 0):
            self.image.seek(page)
            if not int(self.image.tag_v2.get(SUBFILE_TYPE, 0)) & REDUCED_OR_MASK:
                pages.append(page)
        return pages or [0]

    @property
    def count(self) -> int:
        return len(self.pages)

    def frame(self, index: int) -> Image.Image:
        self.image.seek(self.pages[index])
        return _eight_bits(self.image, self.spec)


def _eight_bits(image: Image.Image, spec: ImageSpec | None) -> Image.Image:
    """The image at 8 bits, upright, without transparency."""
    if image.format == "JPEG" and spec and not image.info.get("progressive"):
        # Decode at a reduced size, at least twice the target: the resize does the rest.
        image.draft(image.mode, (2 * spec.size[1], 2 * spec.size[0]))
    width, height = image.size
    if width * height > LARGEST_IMAGE_PIXELS:
        raise DecodeError(f"too many pixels: {width} x {height}")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return _stretch(upright)
    if upright.mode in ("RGBA", "LA", "PA", "P"):
        return _on_black(upright)
    return upright


def _stretch(image: Image.Image) -> Image.Image:
    return Image.fromarray(stretch(np.asarray(image)))


def _on_black(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")
