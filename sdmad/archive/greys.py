"""Convert grey and colour values of any range to 8 bits."""

from collections.abc import Sequence

import numpy as np

from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import PERCENTILES, ImageSpec, Window

# Colour files often store values of fewer bits in a container of 16 or 32 and do not say so.
_DEPTHS = (8, 10, 12, 14, 16, 24)
_CONTAINERS = (16, 32)


def stretch(
    values: np.ndarray,
    percentiles: tuple[float, float] = PERCENTILES,
    counted: np.ndarray | None = None,
) -> np.ndarray:
    """Values from one percentile (0) to another (255), as uint8; what lies beyond is clipped.

    Percentiles are `numpy.percentile` of the finite values; `counted` (bool, the same shape) says
    which values they are taken from. Where both are equal (nearly all of the image has one value)
    the range is minimum to maximum; a constant image is black. An image of two narrow peaks far
    apart, such as air and soft tissue, keeps both and little contrast within each: only a window
    can help there. Raises `DecodeError` when no value is finite.
    """
    chosen = values if counted is None else values[counted]
    if not _finite(chosen).size:
        chosen = values
    return linear(values, *span(chosen, percentiles))


def span(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of the finite values; where they are equal, minimum and maximum."""
    chosen = _finite(values)
    if not chosen.size:
        raise DecodeError("no finite pixel values")
    low, high = _percentiles(chosen, percentiles)
    return (low, high) if low != high else (float(chosen.min()), float(chosen.max()))


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _percentiles(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """`numpy.percentile`; integers of up to 16 bits are counted, which is several times as fast.

    NumPy subtracts integers in their own type, which may overflow between two values far apart.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        floats = values.astype(np.result_type(values, np.float32), copy=False)
        low, high = np.percentile(floats, percentiles)
        return float(low), float(high)
    least = int(values.min())
    counts = np.bincount(values.ravel().astype(np.int32) - least)
    # `places` are fractional positions among the sorted values, and `ends[k]` is the number of
    # values up to `least + k`.
    places, ends = np.array(percentiles) / 100 * (values.size - 1), np.cumsum(counts)
    before = np.floor(places)
    lower = np.searchsorted(ends, before, side="right") + least
    upper = np.searchsorted(ends, np.minimum(before + 1, values.size - 1), side="right") + least
    low, high = lower + (upper - lower) * (places - before)
    return float(low), float(high)


def windowed(values: np.ndarray, windows: Sequence[Window]) -> np.ndarray:
    """Values (H, W) as one window shows them, uint8; several windows are channels (H, W, C)."""
    shown = [linear(values, window.low, window.high) for window in windows]
    return shown[0] if len(shown) == 1 else np.stack(shown, axis=-1)


def linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low` and less become 0, `high` and more 255, as uint8; values that are not finite become 0.

    Where `low` and `high` are equal, greater values become 255.
    """
    # Single precision holds integers of 16 bits exactly, and wider ones not.
    scaled = values.astype(np.result_type(values, np.float32))
    scaled -= low
    scaled *= 255 / max(high - low, 1e-12)
    scaled += 0.5
    if values.dtype.kind == "f":
        scaled[~np.isfinite(values)] = 0
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def depth(largest: int, bits: int) -> int:
    """How many bits unsigned values have, of which `largest` is the greatest.

    It is `bits`, unless these are the whole container (16 or 32) or too few for `largest`: then it
    is the least of 8, 10, 12, 14, 16, 24 and 32 that holds `largest`.
    """
    needed = int(largest).bit_length()
    if needed <= bits and bits not in _CONTAINERS:
        return bits
    return next((one for one in _DEPTHS if one >= needed), 32)


def eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned values of `bits` bits, scaled to uint8."""
    if bits == 8 and values.dtype == np.uint8:
        return values
    scaled = values.astype(np.result_type(values, np.float32)) * (255 / ((1 << bits) - 1)) + 0.5
    return np.clip(scaled, 0, 255).astype(np.uint8)


def grey(
    values: np.ndarray, bits: int, spec: ImageSpec, counted: np.ndarray | None = None
) -> np.ndarray:
    """Grey values (H, W) of a file that is not DICOM as uint8; (H, W, 3) with three windows.

    Unsigned values of up to 8 bits keep their scale. Others are windowed or stretched; their unit
    is unknown, so windows in Hounsfield units do not apply. `counted` is as in `stretch`.
    """
    if values.dtype.kind == "u" and bits <= 8:
        return eight_bits(values, bits)
    if spec.windows and not spec.hounsfield:
        return windowed(values, spec.windows)
    return stretch(values, spec.stretch, counted)


def colours(values: np.ndarray, bits: int, percentiles: tuple[float, float]) -> np.ndarray:
    """Colours (H, W, 3) as uint8.

    Unsigned integers are scaled by their `depth`. Floats from 0 to 1 are scaled to 0 to 255. Other
    values are stretched, all channels by the same percentiles.
    """
    if values.dtype.kind == "u":
        return eight_bits(values, depth(int(values.max(initial=0)), bits))
    finite = values[np.isfinite(values)]
    if values.dtype.kind == "f" and finite.size and finite.min() >= 0 and finite.max() <= 1:
        return linear(values, 0, 1)
    return stretch(values, percentiles)


def on_black(shown: np.ndarray, alpha: np.ndarray, bits: int) -> np.ndarray:
    """8-bit greys (H, W) or colours (H, W, 3) over black; `alpha` (H, W) has `bits` bits."""
    opacity = colours(alpha, bits, (0, 100)).astype(np.float32) / 255
    if shown.ndim == 3:
        opacity = opacity[..., None]
    return (shown * opacity + 0.5).astype(np.uint8)
