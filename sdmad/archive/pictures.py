"""Images in the hands of a library user: paths, bytes, PIL images and arrays, one or many.

pixels = [picture.pixels(spec) for picture in pictures(Path("scans").glob("*.png"))]
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdmad import storage
from sdmad.archive.decode import decode, prepare
from sdmad.archive.limits import DecodeError, describe
from sdmad.archive.naming import split_frame
from sdmad.archive.preprocess import ImageSpec
from sdmad.errors import UserError

Picture = bytes | bytearray | memoryview | str | os.PathLike[str] | Image.Image | np.ndarray
_ONE = (bytes, bytearray, memoryview, str, os.PathLike, Image.Image)
_LAST = "put the channels last, as in np.moveaxis(image, 0, -1)"


@dataclass(frozen=True)
class Given:
    """An image as the user gave it, and its `row` among others, by which errors name it."""

    image: Picture
    row: int = 0

    @property
    def name(self) -> str:
        """The path or URI if it is known, otherwise the row."""
        if isinstance(self.image, (str, os.PathLike)):
            return os.fspath(self.image)
        path = getattr(self.image, "filename", "")
        return str(path) if isinstance(path, (str, os.PathLike)) and path else str(self.row)

    def pixels(self, spec: ImageSpec) -> np.ndarray:
        """(height, width, 3) uint8, as the scoring job decodes it.

        Raises `DecodeError` for a file that is no image or has several frames, `UserError` for one
        that does not exist, `TypeError` or `ValueError` for what is not an image.
        """
        image = self.image
        if isinstance(image, (bytes, bytearray, memoryview)):
            return decode(bytes(image), spec)
        if isinstance(image, (str, os.PathLike)):
            return decode(*_read(os.fspath(image), spec))
        if isinstance(image, np.ndarray):
            image = _from_array(image, self.row)
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"image {self.row} is of type {type(image).__name__}; give encoded bytes, a path, "
                "a PIL image or a NumPy array"
            )
        if 0 in image.size:
            raise ValueError(f"image {self.row} has no pixels: its size is {image.size}")
        try:
            return prepare(image, spec)
        except (OSError, SyntaxError) as error:
            raise DecodeError(f"image {self.row} is damaged: {describe(error)}") from None


def pictures(images: Picture | Iterable[Picture]) -> Iterator[Given]:
    """One image or many, taken one after the other.

    Raises `TypeError` or `ValueError` for what is neither.
    """
    for row, image in enumerate(_each(images)):
        yield Given(image, row)


def _each(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    if isinstance(images, _ONE):
        return [images]
    if isinstance(images, np.ndarray):
        if images.ndim < 3 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4)):
            return [images]
        if images.ndim == 3 and images.shape[0] in (3, 4):
            raise ValueError(
                f"an array of shape {images.shape} is one image with the channels first or "
                f"{images.shape[0]} grey images; {_LAST}, or give a list of images"
            )
        return images
    if hasattr(images, "read"):
        raise TypeError("an open file is not an image; give its path or the bytes that it holds")
    if not isinstance(images, Iterable):
        raise TypeError(
            f"{type(images).__name__} is not an image; give a path, encoded bytes, a PIL image, a "
            "NumPy array, or several of them"
        )
    return images


def _read(path: str, spec: ImageSpec) -> tuple[bytes, ImageSpec, int | None]:
    """The arguments of `decode` for a path, which may end with `#frame=<number>`."""
    name, frame = split_frame(path)
    if frame is not None:
        try:
            return storage.read_file(storage.resolve(path), "image"), spec, None
        except UserError:
            pass  # No file is called so: it is a frame.
    return storage.read_file(storage.resolve(name), "image"), spec, frame


def _from_array(values: np.ndarray, row: int) -> Image.Image:
    """An array as an image; raises `TypeError` or `ValueError` that names it by its position."""
    shape, kind = values.shape, values.dtype
    if kind.kind == "f":
        raise TypeError(
            f"image {row} is an array of {kind}, whose range is not known; give uint8, such as "
            "(255 * image).astype(np.uint8) for values from 0 to 1"
        )
    if kind != np.uint8 and not (kind.kind == "u" and kind.itemsize == 2):
        raise TypeError(
            f"image {row} is an array of {kind}; give uint8 (0 to 255), or uint16 for one channel"
        )
    if values.size == 0:
        raise ValueError(f"image {row} has no pixels: its shape is {shape}")
    values = values[:, :, 0] if values.ndim == 3 and shape[2] == 1 else values
    if values.ndim == 2:
        return Image.fromarray(np.ascontiguousarray(values.astype(kind.newbyteorder("="))))
    if values.ndim == 3 and shape[2] in (3, 4) and kind == np.uint8:
        return Image.fromarray(np.ascontiguousarray(values))
    if values.ndim == 3 and shape[0] in (1, 3, 4):
        hint = _LAST
    elif values.ndim == 3 and kind != np.uint8:
        hint = "with several channels give uint8"
    else:
        hint = "give (height, width) or (height, width, 3)"
    raise ValueError(f"image {row} is an array of shape {shape}; {hint}")
