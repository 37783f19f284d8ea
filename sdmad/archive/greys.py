"""Convert grey values of any range to 8 bits."""

from collections.abc import Sequence

import numpy as np

from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import PERCENTILES, Window


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
    finite = np.isfinite(values)
    chosen = values[finite if counted is None else finite & counted]
    if not chosen.size:
        chosen = values[finite]
    if not chosen.size:
        raise DecodeError("no finite pixel values")
    low, high = (float(value) for value in np.percentile(chosen, percentiles))
    if low == high:
        low, high = float(chosen.min()), float(chosen.max())
    return _linear(values, low, high)


def windowed(values: np.ndarray, windows: Sequence[Window]) -> np.ndarray:
    """Values (H, W) as one window shows them, uint8; several windows are channels (H, W, C)."""
    shown = [_linear(values, window.low, window.high) for window in windows]
    return shown[0] if len(shown) == 1 else np.stack(shown, axis=-1)


def _linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low` and less become 0, `high` and more 255; values that are not finite become 0."""
    # Single precision holds integers of 16 bits exactly, and wider ones not.
    scaled = values.astype(np.result_type(values, np.float32))
    scaled -= low
    scaled *= 255 / max(high - low, 1e-12)
    scaled += 0.5
    scaled[~np.isfinite(values)] = 0
    return np.clip(scaled, 0, 255).astype(np.uint8)
