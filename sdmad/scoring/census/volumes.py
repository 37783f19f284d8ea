"""Count the slices of a NIfTI volume from its header, read by hand; for verification.

Offsets are those of nifti1.h and nifti2.h. The axis of a slice follows from sform or qform; where a
volume lies so obliquely that no axis is clearly the nearest, each of its sides may be the number.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import IO

Matrix = tuple[tuple[float, float, float], ...]
_MAGICS = {b"n+1\0": 348, b"n+2\0": 540}
# A direction that is clearly nearest to one axis: within 37 degrees.
_CLEARLY = 0.8
_AXES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class _Layout:
    """Format characters and offsets of one version of the header."""

    dims: str
    at_dims: int
    real: str
    at_zooms: int
    codes: str
    at_codes: int
    at_quaternion: int
    at_rows: int


_LAYOUTS = {
    348: _Layout("8h", 40, "f", 76, "2h", 252, 256, 280),
    540: _Layout("8q", 16, "d", 104, "2i", 344, 352, 400),
}


def head(stream: IO[bytes]) -> bytes:
    """The first 540 bytes of a file, unpacked if it is gzip; the stream stays at its start."""
    start = stream.read(64 << 10)
    stream.seek(0)
    if start.startswith(b"\x1f\x8b"):
        try:
            return zlib.decompressobj(31).decompress(start, 540)
        except zlib.error:
            return b""
    return start[:540]


def is_volume(start: bytes) -> bool:
    """Whether the unpacked start of a file is that of a NIfTI file with its voxels."""
    return start[4:8] == b"n+2\0" or start[344:348] == b"n+1\0"


def count_slices(start: bytes, axis: str) -> frozenset[int] | None:
    """How many slices a volume may have along `axis`; None for one that gives no images."""
    size = 540 if start[4:8] == b"n+2\0" else 348
    orders = [o for o in "<>" if struct.unpack_from(f"{o}i", start)[0] == size]
    if not orders or len(start) < size:
        return None
    order, layout = orders[0], _LAYOUTS[size]
    dimensions, *sides = struct.unpack_from(order + layout.dims, start, layout.at_dims)
    used = sides[:dimensions] if 2 <= dimensions <= 7 else []
    if not used or min(used) < 1 or math.prod(used[3:]) > 1:
        return None
    sides = [*used[:3], 1][:3]
    places = _places(_matrix(start, order, layout))
    if places is None:
        return frozenset(sides)
    return frozenset((sides[places.index(_AXES.index(axis))],))


def _matrix(start: bytes, order: str, layout: _Layout) -> Matrix:
    """The directions of the stored axes, as columns of three rows (right, front, top)."""
    qform, sform = struct.unpack_from(order + layout.codes, start, layout.at_codes)
    if sform > 0:
        values = struct.unpack_from(f"{order}12{layout.real}", start, layout.at_rows)
        return values[0:3], values[4:7], values[8:11]
    if qform > 0:
        return _rotation(*struct.unpack_from(f"{order}3{layout.real}", start, layout.at_quaternion))
    return (-1, 0, 0), (0, 1, 0), (0, 0, 1)


def _rotation(b: float, c: float, d: float) -> Matrix:
    """nifti1.h, method 2; the sign of the third column does not matter here."""
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    return (
        (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)),
        (2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)),
        (2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b),
    )


def _places(matrix: Matrix) -> list[int] | None:
    """The axis of the body (0 right, 1 front, 2 top) that each stored axis is nearest to."""
    found = []
    for column in zip(*matrix, strict=True):
        length = math.sqrt(sum(x * x for x in column))
        near = [k for k, x in enumerate(column) if abs(x) > _CLEARLY * length]
        found += near
    return found if sorted(found) == [0, 1, 2] else None
