"""Decode files to the uint8 pixels that a backbone takes.

Pillow decodes PNG, JPEG, TIFF and other formats, `sdmad.archive.dicom` decodes DICOM. Each frame of
a DICOM file and each page of a TIFF is one image. Of other formats only the first frame is used.
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

Image.MAX_IMAGE_PIXELS = None  # `_eight_bits` checks `LARGEST_IMAGE_PIXELS` instead.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# TIFF 6.0, NewSubfileType: a reduced copy (bit 0) or a mask (bit 2) of another page.
SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101


@dataclass(frozen=True)
class Frame:
    """One image of a file.

    `number` counts from 1; it is None if the file has only one image. `pixels` is (height, width,
    3) uint8, or None with a `reason`.
    """

    number: int | None
    pixels: np.ndarray | None
    reason: str = ""


class _File(Protocol):
    """An opened file: the number of its frames, and each frame as input of `ImageSpec.fit`."""

    @property
    def count(self) -> int: ...

    def frame(self, index: int) -> Image.Image: ...


def frames(content: bytes, spec: ImageSpec) -> Iterator[Frame]:
    """Every image of a file. A file that cannot be opened gives one frame without pixels.

    Damaged content does not raise: it becomes the `reason` of a frame.
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

    Grey values of more than 8 bits are stretched from the minimum to the maximum of the image, or
    of the window if a DICOM file has one. `frame` (from 1) is required for files with several
    frames. Raises `DecodeError` unless the file is a complete image within `sdmad.archive.limits`.
    """
    file = _open(content, spec)
    if frame is None and file.count > 1:
        raise DecodeError(f"the file has {file.count} frames; choose one with #frame=<number>")
    if frame is not None and frame > file.count:
        raise DecodeError(f"the file has {file.count} frames and no frame {frame}")
    return _fitted(file, (frame or 1) - 1, spec)


def count_frames(content: bytes) -> int:
    """The number of images in a file, from its headers; 1 if it cannot be read."""
    try:
        return _open(content, None).count
    except DecodeError:
        return 1


def prepare(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """An opened image as `decode` returns it. Raises Pillow's exceptions for damaged data."""
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
    """A file in a format that Pillow decodes."""

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
    """The image at 8 bits per channel, upright, without transparency."""
    if image.format == "JPEG" and spec and not image.info.get("progressive"):
        # Decode at a reduced size, but at least twice the target, and resize from there.
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
