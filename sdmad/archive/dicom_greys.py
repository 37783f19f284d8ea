"""From stored DICOM values to grey levels as a viewer shows them (PS3.3 C.11).

Stored values pass the modality transformation: the first usable of lookup table and rescale. Then
comes the first usable rule of: configured windows, the file's windows, its VOI LUTs, percentiles of
the frame. An element that is there and cannot be used (empty, no number, a width of 0) counts as
absent. Each frame takes the settings of its own functional group, else those shared by all frames,
else those of the object.
"""

from collections.abc import Iterator

import numpy as np
from pydicom import Dataset

from sdmad.archive.dicom_elements import items, number, numbers, text
from sdmad.archive.dicom_header import Header
from sdmad.archive.dicom_tables import Table, lut
from sdmad.archive.greys import linear, stretch, windowed
from sdmad.archive.preprocess import ImageSpec

MODALITY = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
VOI = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")
FUNCTIONAL = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
PADDING = (
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    *("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
)


def grey_levels(
    stored: np.ndarray,
    dataset: Dataset,
    header: Header,
    index: int,
    spec: ImageSpec,
    left_out: np.ndarray | None = None,
) -> np.ndarray:
    """One frame (H, W) as uint8, or (H, W, 3) with three windows; not inverted.

    `left_out` (H, W) marks pixels that do not count in percentiles, as padding does not.
    """
    if header.allocated == 1:
        return (stored > 0).astype(np.uint8) * 255
    sources = _sources(dataset, index)
    values, step, rising = _modality(stored, sources, header)
    if spec.windows:
        return windowed(values, spec.windows)
    shown = _file_window(values, sources, step)
    if shown is None:
        shown = _voi_lut(values, sources, header)
    if shown is None:
        counted = _no_padding(stored, dataset, header)
        if left_out is not None:
            counted = ~left_out if counted is None else counted & ~left_out
        # Rescaling changes nothing in a stretch, and stored values have fewer bits.
        shown = stretch(stored if rising else values, spec.stretch, counted)
    return shown


def _sources(dataset: Dataset, index: int) -> list[Dataset]:
    """Where settings of a frame may be, the nearest first."""
    found = [dataset]
    for name, position in zip(FUNCTIONAL, (0, index), strict=True):
        groups = items(dataset, name)[position : position + 1]
        for inner in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            found += [item for group in groups for item in items(group, inner)[:1]]
    return found[::-1]


def _modality(
    stored: np.ndarray, sources: list[Dataset], header: Header
) -> tuple[np.ndarray, float, bool]:
    """Values after the modality transformation, the step between neighbours (0: unknown), and
    whether the transformation is linear and increasing."""
    step = 0.0 if header.floating else 1.0
    for source in sources:
        for item in items(source, "ModalityLUTSequence"):
            table = lut(item, header.signed)
            if table:
                return table(stored).astype(np.int32), step, False
        slope, intercept = number(source, "RescaleSlope"), number(source, "RescaleIntercept")
        if slope or intercept is not None:
            slope, intercept = slope or 1.0, intercept or 0.0
            if (slope, intercept) == (1, 0):
                return stored, step, True
            values = stored.astype(np.float64) * slope + intercept
            return values, step * abs(slope), slope > 0
    return stored, step, True


def _file_window(values: np.ndarray, sources: list[Dataset], step: float) -> np.ndarray | None:
    """Values as the first usable window shows them (C.11.2.1.2 and C.11.2.1.3)."""
    for source in sources:
        function = text(source, "VOILUTFunction")
        for center, width in _windows(source):
            if function == "SIGMOID":
                with np.errstate(over="ignore"):
                    part = 1 / (1 + np.exp(-4 * (values.astype(np.float64) - center) / width))
                return linear(part, 0, 1)
            if function == "LINEAR_EXACT":
                return linear(values, center - width / 2, center + width / 2)
            if width >= 1:
                return linear(values, center - width / 2, center - 1 + width / 2)
            if width > step:
                # LINEAR needs a width of at least 1. Files whose values are fractions have less,
                # and mean what LINEAR_EXACT is.
                return linear(values, center - width / 2, center + width / 2)
    return None


def _windows(source: Dataset) -> Iterator[tuple[float, float]]:
    """Centre and width, in the order of the file."""
    centers, widths = numbers(source, "WindowCenter"), numbers(source, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        if center is not None and width is not None and width > 0:
            yield center, width


def _voi_lut(values: np.ndarray, sources: list[Dataset], header: Header) -> np.ndarray | None:
    """Values as the first usable VOI LUT shows them (C.11.2.1.1)."""
    tables: Iterator[Table | None] = (
        lut(item, header.signed or bool(np.nanmin(values) < 0))
        for source in sources
        for item in items(source, "VOILUTSequence")
    )
    table = next((found for found in tables if found), None)
    return Table(table.first, table.shown, 8)(values) if table else None


def _no_padding(stored: np.ndarray, dataset: Dataset, header: Header) -> np.ndarray | None:
    """Where stored values are no padding (C.7.5.1.1.2); None where all count."""
    prefix = header.keyword.removesuffix("PixelData")
    value = number(dataset, f"{prefix}PixelPaddingValue")
    limit = number(dataset, f"{prefix}PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = [value, value if limit is None else limit]
    if not header.floating:
        ends = [_stored(int(end), header) for end in ends]
    return (stored < min(ends)) | (stored > max(ends))


def _stored(value: int, header: Header) -> int:
    """A stored value whose element may have the wrong sign: 63,536 for -2,000 or the reverse."""
    if header.signed:
        half = 1 << (header.stored - 1)
        for bits in (header.allocated, header.stored):
            if value >= half and value >= 1 << (bits - 1):
                value -= 1 << bits
        return value
    return value + (1 << header.allocated) if value < 0 else value
