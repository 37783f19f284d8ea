"""NIfTI volumes (`.nii`, `.nii.gz`) as slices, each an image of its own.

    volume = VolumeFile(content, spec)
    volume.count, volume.pixels(16, spec)      # the slice `#frame=17`

A volume is turned to RAS+, as `nibabel.as_closest_canonical` does it: no resampling, axes are only
swapped and flipped. Slices are numbered along the axis that `ImageSpec.slice_axis` names: axial
from inferior to superior, coronal from posterior to anterior, sagittal from the patient's left to
right. They are shown as radiologists look at them: in axial and coronal slices the patient's right
is on the left side of the image, in sagittal ones the front of the body; at the top is the front of
the body in axial slices, the head in the others. Header: NIfTI-1 (nifti1.h), NIfTI-2 (nifti2.h).
"""

import io
import logging
import math
import zlib
from functools import cached_property

import numpy as np
from PIL import Image

from sdmad.archive.compression import unpacked
from sdmad.archive.greys import grey, linear, span, windowed
from sdmad.archive.limits import (
    DAMAGE,
    LARGEST_IMAGE_PIXELS,
    LARGEST_MEMBER_BYTES,
    MOST_FRAMES,
    DecodeError,
    describe,
    too_large,
)
from sdmad.archive.preprocess import SLICE_AXES, ImageSpec

GZIP = b"\x1f\x8b"
_HEADER_BYTES = 540
# What nibabel repairs in a header is told to nobody.
_SILENT = logging.Logger(__name__, logging.CRITICAL + 1)
_SINGLE, _PAIR = (b"n+1\0", b"n+2\0\r\n\x1a\n"), (b"ni1\0", b"ni2\0\r\n\x1a\n")
# Percentiles are taken from at most so many voxels, which lie evenly in the volume.
_MOST_VOXELS = 1 << 24
# Sides of a voxel that differ by less than this factor count as equal; by more, as not meant.
_SQUARE, _THINNEST = 1.01, 100.0


def is_volume(content: bytes) -> bool:
    """Whether a file has the magic number of NIfTI, behind gzip or not."""
    return _magic(content) in _SINGLE + _PAIR


def _magic(content: bytes) -> bytes:
    head = content[:_HEADER_BYTES]
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(
                content[: 64 << 10], _HEADER_BYTES
            )
        except zlib.error:
            return b""
    return head[4:12] if head[4:12] in _SINGLE + _PAIR else head[344:348]


class VolumeFile:
    """A NIfTI file. Raises `DecodeError` for one that is damaged or not a volume of grey values."""

    def __init__(self, content: bytes, spec: ImageSpec) -> None:
        from nibabel.nifti1 import Nifti1Header
        from nibabel.nifti2 import Nifti2Header
        from nibabel.orientations import apply_orientation, io_orientation

        magic = _magic(content)
        if magic in _PAIR:
            raise DecodeError(
                "a NIfTI header whose pixels are in another file (.img); convert both to one .nii"
            )
        kind = Nifti1Header if magic == _SINGLE[0] else Nifti2Header
        size = 348 if kind is Nifti1Header else _HEADER_BYTES
        header = kind(_start(content, size), check=False)
        header.check_fix(logger=_SILENT)
        shape, dtype = _shape(header), _dtype(header)
        offset = int(header["vox_offset"]) or size + 4
        self.scaling = _scaling(header)
        stored = _voxels(content, offset, math.prod(shape) * dtype.itemsize)
        self.voxels = np.frombuffer(stored, dtype, math.prod(shape), offset)
        voxels = self.voxels.reshape(shape, order="F")
        affine = header.get_best_affine()
        orientation = io_orientation(affine) if np.isfinite(affine).all() else np.array([np.nan])
        if not np.isfinite(orientation).all():
            raise DecodeError("NIfTI whose orientation (sform or qform) is not usable")
        canonical = apply_orientation(voxels, orientation)  # a view
        sides = np.empty(3)
        sides[orientation[:, 0].astype(int)] = np.sqrt((affine[:3, :3] ** 2).sum(0))
        axis = SLICE_AXES.index(spec.slice_axis)
        self.slices = np.moveaxis(canonical, axis, 0)
        # Height and width of a voxel in the slice, whose rows run along the later axis.
        self.sides = tuple(np.delete(sides, axis)[::-1].tolist())
        self.count = len(self.slices)
        self.stretch = spec.stretch
        if self.count > MOST_FRAMES:
            raise DecodeError(f"too many frames: {self.count}")

    def pixels(self, index: int, spec: ImageSpec) -> np.ndarray:
        """One slice, resized: (height, width, 3) uint8."""
        stored = self.slices[index][::-1, ::-1].T
        height, width = stored.shape
        if width * height > LARGEST_IMAGE_PIXELS:
            raise DecodeError(f"too many pixels: {width} x {height}")
        return spec.fit(self._square(Image.fromarray(self._shown(stored, spec))))

    def _shown(self, stored: np.ndarray, spec: ImageSpec) -> np.ndarray:
        """A slice at 8 bits: windowed or, by the percentiles of the volume, stretched."""
        if stored.dtype == np.uint8 and self.scaling == (1.0, 0.0):
            return grey(np.ascontiguousarray(stored), 8, spec)
        values = self._values(stored)
        if spec.windows:
            return windowed(values, spec.windows)
        return linear(values, *self._limits)

    def _values(self, stored: np.ndarray) -> np.ndarray:
        slope, inter = self.scaling
        return stored.astype(np.float64) * slope + inter

    @cached_property
    def _limits(self) -> tuple[float, float]:
        """What is black and white, the same for all slices of the volume."""
        found = span(self._values(self._sample()), self.stretch)
        if found[0] < found[1]:
            return found
        # Nearly all of the sample has one value: the exact range of the volume.
        ranges = [span(self._values(one), (0, 100)) for one in self.slices if _has_numbers(one)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def _sample(self) -> np.ndarray:
        """Voxels that lie evenly in the volume; all of them if there are not too many."""
        step = max(1, -(-self.voxels.size // _MOST_VOXELS))
        while step > 1 and any(math.gcd(step, side) > 1 for side in self.slices.shape):
            step += 1  # Otherwise the same columns or rows would be taken again and again.
        return self.voxels[::step]

    def _square(self, shown: Image.Image) -> Image.Image:
        """A slice whose pixels are squares: the longer side of a voxel is interpolated."""
        height, width = self.sides
        least = min(self.sides)
        if not least > 0 or not _SQUARE < max(self.sides) / least < _THINNEST:
            return shown
        size = round(shown.width * width / least), round(shown.height * height / least)
        if size[0] * size[1] > LARGEST_IMAGE_PIXELS:
            return shown
        return shown.resize(size, Image.Resampling.BILINEAR)


def _has_numbers(values: np.ndarray) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).any())


def _start(content: bytes, size: int) -> bytes:
    if content.startswith(GZIP):
        content = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(content[: 64 << 10], size)
    if len(content) < size:
        raise DecodeError("damaged NIfTI: the file ends in its header")
    return content[:size]


def _shape(header: "object") -> tuple[int, ...]:
    """Three sides; raises `DecodeError` for a file that is not one volume or one slice."""
    count, *dims = np.asarray(header["dim"]).tolist()  # type: ignore[index]
    if not 1 <= count <= 7 or any(side < 1 for side in dims[:count]):
        raise DecodeError(f"damaged NIfTI: its dimensions are {dims[: max(count, 0)]}")
    sides, further = dims[:count][:3], dims[:count][3:]
    if math.prod(further) > 1:
        raise DecodeError(
            f"{count}-D NIfTI of {math.prod(further)} volumes, which is not read; write each "
            "volume as a file of its own"
        )
    if len(sides) < 2:
        raise DecodeError("NIfTI of one dimension, which is no image")
    return (*sides, *(1,) * (3 - len(sides)))


def _dtype(header: "object") -> np.dtype:
    dtype = header.get_data_dtype()  # type: ignore[attr-defined]
    if dtype.fields:
        raise DecodeError(f"NIfTI of colours ({'+'.join(dtype.fields)}), which is not read")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DecodeError(f"NIfTI of {dtype.name} values, which is not read")
    return dtype


def _scaling(header: "object") -> tuple[float, float]:
    slope, inter = header.get_slope_inter()  # type: ignore[attr-defined]
    return (1.0, 0.0) if slope is None else (slope, inter)


def _voxels(content: bytes, offset: int, size: int) -> bytes:
    """The unpacked file up to the last voxel; its checksum is compared, if it has one."""
    needed = offset + size
    if reason := too_large(needed):
        raise DecodeError(reason)
    if offset < 0:
        raise DecodeError("damaged NIfTI: its voxels are in front of the file")
    if content.startswith(GZIP):
        try:
            stream, _ = unpacked(io.BytesIO(content))
            kept = (
                io.BufferedReader(stream, 1 << 20) if isinstance(stream, io.RawIOBase) else stream
            )
            content = kept.read(needed)
            left = LARGEST_MEMBER_BYTES
            while left > 0 and (rest := kept.read(1 << 20)):
                left -= len(rest)
        except DAMAGE as error:
            raise DecodeError(f"damaged NIfTI: {describe(error)}") from None
    if len(content) < needed:
        raise DecodeError(f"damaged NIfTI: it has {len(content)} of {needed} bytes")
    return content
