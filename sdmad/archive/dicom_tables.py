"""Lookup tables of DICOM: modality and VOI LUTs (PS3.3 C.11.1, C.11.2), palettes (C.7.6.3.1.5)."""

from dataclasses import dataclass

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian

from sdmad.archive.dicom_elements import numbers
from sdmad.archive.greys import depth, eight_bits

_COLOURS = ("Red", "Green", "Blue")


@dataclass(frozen=True)
class Table:
    """Entries for the values `first`, `first` + 1 and so on; values beyond take the end entries."""

    first: int
    entries: np.ndarray
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        # A fraction, which rescaling may leave, is cut off as pydicom does.
        place = np.nan_to_num(values.astype(np.float64)) - self.first
        return self.entries[np.clip(place, 0, len(self.entries) - 1).astype(np.intp)]

    @property
    def shown(self) -> np.ndarray:
        """The entries as 8 bits."""
        return eight_bits(self.entries, depth(int(self.entries.max(initial=0)), self.bits))


def lut(item: Dataset, signed: bool) -> Table | None:
    """The table in an item of a modality or VOI LUT sequence; None if it is unusable.

    `signed` says whether the values it is for may be negative.
    """
    shape = _descriptor(item, "LUTDescriptor", signed)
    if shape is None:
        return None
    size, first, bits = shape
    entries = _entries(item, "LUTData", size)
    return None if entries is None else Table(first, entries, bits)


@dataclass(frozen=True)
class Palette:
    """Three tables of one range."""

    tables: tuple[Table, Table, Table]

    @property
    def first(self) -> int:
        return self.tables[0].first

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Colours (..., 3) as uint8."""
        found = np.stack([table(values) for table in self.tables], axis=-1)
        largest = max(int(table.entries.max(initial=0)) for table in self.tables)
        return eight_bits(found, depth(largest, self.tables[0].bits))


def palette(dataset: Dataset, signed: bool) -> Palette | None:
    """The palette of an image; None if there is none, or one that is unusable."""
    shapes = [_descriptor(dataset, _name(colour, "Descriptor"), signed) for colour in _COLOURS]
    if any(shape is None for shape in shapes):
        return None
    found = [shape for shape in shapes if shape is not None]
    tables = []
    for colour, (size, first, bits) in zip(_COLOURS, found, strict=True):
        entries = _entries(dataset, _name(colour, "Data"), size)
        if entries is not None:
            tables.append(Table(first, entries, bits))
    if len(tables) == 3:
        return Palette((tables[0], tables[1], tables[2]))
    return _segmented(dataset, found)


def _segmented(dataset: Dataset, shapes: list[tuple[int, int, int]]) -> Palette | None:
    """A palette written as segments (PS3.3 C.7.9.2), which pydicom expands."""
    if len(set(shapes)) != 1:
        return None
    size, first, bits = shapes[0]
    source = Dataset()
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # as `_bytes` returns them
    for colour in _COLOURS:
        name = f"Segmented{_name(colour, 'Data')}"
        if name not in dataset:
            return None
        setattr(source, _name(colour, "Descriptor"), [size % 65536, 0, bits])
        source[name] = DataElement(name, "OW", _bytes(dataset, name))
    try:
        expanded = apply_color_lut(np.arange(size), source)
    except Exception:
        return None
    red, green, blue = (Table(first, expanded[:, k], bits) for k in range(3))
    return Palette((red, green, blue))


def _name(colour: str, part: str) -> str:
    return f"{colour}PaletteColorLookupTable{part}"


def _descriptor(source: Dataset, name: str, signed: bool) -> tuple[int, int, int] | None:
    """Number of entries, first value mapped, bits of an entry."""
    shape = [int(value) for value in numbers(source, name) if value is not None]
    if len(shape) != 3:
        return None
    size, first, bits = shape
    size = size % 65536 or 65536  # 0 means 65,536; some files write it as signed
    if signed and first >= 32768:
        first -= 65536
    return size, first, bits


def _entries(source: Dataset, name: str, size: int) -> np.ndarray | None:
    """`size` entries of 8 or 16 bits; None if there are fewer."""
    data = _bytes(source, name)
    if len(data) >= 2 * size:
        return np.frombuffer(data[: 2 * size], "<u2")
    if size <= len(data) <= size + 1:
        return np.frombuffer(data[:size], np.uint8)
    return None


def _bytes(source: Dataset, name: str) -> bytes:
    """The bytes of an element, as in a little endian file; empty if it is unusable."""
    try:
        element = source.get_item(name) if name in source else None
    except Exception:
        return b""
    value = element.value if element is not None else None
    if not isinstance(value, bytes):
        words = [word for word in numbers(source, name) if word is not None]
        return np.array(words, "<i8").astype("<u2").tobytes()
    if element is not None and not getattr(element, "is_little_endian", True):
        if element.VR == "OB":
            return value
        return np.frombuffer(value[: len(value) // 2 * 2], ">u2").astype("<u2").tobytes()
    return value
