"""Convert grey values of any range to 8 bits."""

import numpy as np

from sdmad.archive.limits import DecodeError


def stretch(values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Scale values linearly from their finite minimum (0) to their finite maximum (255): uint8.

    `counted` (bool, same shape) selects the values that define the range. Raises `DecodeError` if
    no value is finite.
    """
    values = values.astype(np.float32)
    finite = np.isfinite(values)
    chosen = finite if counted is None else finite & counted
    if not chosen.any():
        chosen = finite
    if not chosen.any():
        raise DecodeError("no finite pixel values")
    low, high = float(values[chosen].min()), float(values[chosen].max())
    values[~finite] = low
    scaled = (values - low) * (255 / max(high - low, 1e-12)) + 0.5
    return np.clip(scaled, 0, 255).astype(np.uint8)
