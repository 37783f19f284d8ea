"""Decode files to the uint8 pixels that a backbone takes.

`sdmad.archive.dicom` decodes DICOM, `sdmad.archive.tiffs` TIFF, and Pillow PNG, JPEG and other
formats; `sdmad.archive.deep` keeps the values of PNG and others of more than 8 bits, and
`sdmad.archive.volumes` reads NIfTI. Each frame of a DICOM file or an animation, each page of a TIFF
and each slice of a volume is one image (`sdmad.archive.pages`).
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import (
    ExifTags,
    Image,
    ImageOps,
    JpegImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from sdmad.archive import dicom, pngs, tiffs, volumes
from sdmad.archive.deep import deep_image
from sdmad.archive.formats import unknown
from sdmad.archive.greys import grey
from sdmad.archive.limits import LARGEST_IMAGE_PIXELS, DecodeError, describe
from sdmad.archive.pages import pages
from sdmad.archive.preprocess import Box, ImageSpec
from sdmad.archive.quiet import quiet

# Formats whose frames are drawn on the picture that precedes them.
ANIMATED = frozenset(("GIF", "PNG", "WEBP", "AVIF", "FLI"))
# Ghostscript and Windows draw EPS and WMF. Of the others Pillow ignores scale, sign or low bits.
_NOT_READ = ("EPS", "WMF", "FITS", "IM", "MCIDAS", "SGI")


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
    """An opened file: how many frames it has, and the pixels of each."""

    @property
    def count(self) -> int: ...

    def pixels(self, index: int, spec: ImageSpec) -> np.ndarray: ...


def frames(content: bytes, spec: ImageSpec, start: int = 0) -> Iterator[Frame]:
    """Every image of a file, from the one at index `start`.

    A file that cannot be opened gives one frame without pixels. Damaged content does not raise: it
    becomes the `reason` of a frame.
    """
    try:
        file = _open(content, spec)
    except DecodeError as error:
        yield Frame(None, None, str(error))
        return
    for index in range(start, file.count):
        number = index + 1 if file.count > 1 else None
        try:
            yield Frame(number, _fitted(file, index, spec))
        except DecodeError as error:
            yield Frame(number, None, str(error))


def decode(content: bytes, spec: ImageSpec, frame: int | None = None) -> np.ndarray:
    """One image, upright, reduced to 8 bits and resized: (height, width, 3) uint8.

    `spec` decides what becomes of grey values of more than 8 bits, of DICOM and of large JPEG.
    `frame` is needed for files with several. Raises `DecodeError` for anything that is not a whole
    image of reasonable size.
    """
    return Opened(content, spec).decode(frame)


class Opened:
    """A file from which several images are decoded; raises `DecodeError` if it is not one."""

    def __init__(self, content: bytes, spec: ImageSpec) -> None:
        self.spec, self.file = spec, _open(content, spec)

    def decode(self, frame: int | None = None) -> np.ndarray:
        """One image, as the function `decode` returns it."""
        count = self.file.count
        if frame is None and count > 1:
            raise DecodeError(f"the file has {count} frames; choose one with #frame=<number>")
        if frame is not None and frame > count:
            raise DecodeError(f"the file has {count} frames and no frame {frame}")
        return _fitted(self.file, (frame or 1) - 1, self.spec)


def count_frames(content: bytes, spec: ImageSpec) -> int:
    """The number of images in a file, from its headers; 1 if it cannot be read."""
    try:
        return _open(content, spec).count
    except DecodeError:
        return 1


def prepare(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """An opened image as `decode` returns it; raises what Pillow raises for damaged data.

    The image stays as it is. Raises `DecodeError` for a TIFF that Pillow has decoded already, and
    wrongly (`sdmad.archive.tiffs`).
    """
    with quiet():
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            page = tiffs.reopened(image)
            if page:
                return spec.fit(page.image(image.tell(), spec))
        return _pixels(_reopened(image), spec)


def _open(content: bytes, spec: ImageSpec) -> _File:
    if not content:
        raise DecodeError("empty file")
    try:
        with quiet():
            if dicom.is_dicom(content):
                return dicom.DicomFile(content)
            if tiffs.is_tiff(content):
                return tiffs.TiffFile(content)
            if volumes.is_volume(content):
                return volumes.VolumeFile(content, spec)
            try:
                return _PillowFile(content)
            except UnidentifiedImageError:
                if dicom.may_be_dicom(content):
                    return dicom.DicomFile(content)
                raise DecodeError(unknown(content)) from None
    except DecodeError:
        raise
    except Exception as error:
        # Decoders raise almost anything on damaged data: OSError, ValueError, SyntaxError, ...
        raise DecodeError(f"damaged image: {describe(error)}") from None


def _fitted(file: _File, index: int, spec: ImageSpec) -> np.ndarray:
    try:
        with quiet():
            return file.pixels(index, spec)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"damaged image: {describe(error)}") from None


class _PillowFile:
    """A file in a format that Pillow decodes."""

    def __init__(self, content: bytes) -> None:
        self.image = Image.open(io.BytesIO(content), formats=_formats())
        self.pages = pages(self.image, content)
        if self.image.format == "PNG" and self.count == 1:
            # A damaged animation keeps its whole frames.
            pngs.check(content)
        self.shown = self.pages[0] - 1
        self.damaged: int | None = None

    @property
    def count(self) -> int:
        return len(self.pages)

    def pixels(self, index: int, spec: ImageSpec) -> np.ndarray:
        if self.count > 1 and self.image.format in ANIMATED:
            self._play(index)
        else:
            self.image.seek(self.pages[index])
        return _pixels(self.image, spec)

    def _play(self, index: int) -> None:
        """Decode the frames up to this one: each is drawn on the picture that precedes it."""
        if self.damaged is not None and self.pages[index] > self.damaged:
            first = self.pages.index(self.damaged) + 1
            raise DecodeError(f"damaged image: it follows frame {first}, which is damaged")
        for page in range(self.shown + 1, self.pages[index] + 1):
            self.damaged = page
            self.image.seek(page)
            self.image.load()
            self.shown, self.damaged = page, None


def _formats() -> list[str]:
    """The formats that Pillow reads, without those that it reads wrongly or by other programs."""
    Image.init()
    return [name for name in Image.ID if name not in _NOT_READ]


def _reopened(image: Image.Image) -> Image.Image:
    """A JPEG file whose pixels are not read yet, opened once more: decoding at reduced size changes
    an image for good. Any other image is returned as it is."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.format != "JPEG":
        return image
    if not image.tile or not image.fp:
        return image
    position = image.fp.tell()
    image.fp.seek(0)
    try:
        again = Image.open(io.BytesIO(image.fp.read()))
    finally:
        image.fp.seek(position)
    return again if again.size == image.size else image


def _pixels(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Upright, at 8 bits, without transparency, resized.

    With `spec.jpeg_scaling`, baseline JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that
    leaves at least twice the sides of the input. For files of 1,024 to 4,000 pixels it takes a half
    to a seventh of the CPU (`python benchmarks/decoding.py jpeg`). Differences to full decoding,
    bounded by tests/archive/test_decode.py: on phantoms with noise at most 12 grey levels in a
    single pixel and 1.5 on average; at edges from black to white, such as text, at most 20.
    """
    box: Box | None = None
    if image.format == "JPEG" and spec.jpeg_scaling and not image.info.get("progressive"):
        # An image that lies on its side changes height and width later.
        side = 2 * max(spec.size)
        _, box = image.draft(image.mode, (side, side)) or (None, None)
    width, height = image.size
    if width * height > LARGEST_IMAGE_PIXELS:
        raise DecodeError(f"too many pixels: {width} x {height}")
    # 1,500 pixels at 1/8 are 187.5: the last pixel of the reduced image counts by half.
    return spec.fit(_eight_bits(image, spec), box and _upright(box, image))


def _upright(box: Box, image: Image.Image) -> Box:
    """A box that begins at 0, 0 as `ImageOps.exif_transpose` turns it with its image."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    (width, height), (right, bottom) = image.size, box[2:]
    if orientation in (5, 6, 7, 8):
        (width, height), (right, bottom) = (height, width), (bottom, right)
    left = width - right if orientation in (2, 3, 6, 7) else 0
    top = height - bottom if orientation in (3, 4, 7, 8) else 0
    return left, top, left + right, top + bottom


def _eight_bits(image: Image.Image, spec: ImageSpec) -> Image.Image:
    deep = deep_image(image, spec)
    if deep is not None:
        return deep
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return Image.fromarray(grey(np.asarray(upright), 32, spec))
    if upright.mode == "La":
        upright = upright.convert("LA")
    if upright.mode in ("RGBA", "RGBa", "LA", "PA", "P") or "transparency" in upright.info:
        return _on_black(upright)
    return upright


def _on_black(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")
