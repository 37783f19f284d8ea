"""Read single elements of a DICOM dataset: what cannot be used counts as absent.

Values are read from the bytes of the file. pydicom would raise for the whole element if one of its
values is no number, and would accept some that are none, such as `nan`.
"""

import math
import re
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement

_BINARY = {
    "US": "u2",
    "SS": "i2",
    "UL": "u4",
    "SL": "i4",
    "UV": "u8",
    "SV": "i8",
    "FL": "f4",
    "FD": "f8",
    "OF": "f4",
    "OD": "f8",
    "OW": "u2",
    "AT": "u2",
    "US or SS": "u2",
    "US or OW": "u2",
}
# PS3.5, 6.2: Decimal String.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def present(source: Dataset, name: str) -> bool:
    """Whether the element is there, with or without a value."""
    return name in source


def numbers(source: Dataset, name: str) -> list[float | None]:
    """The values of a numeric element, None for each that is no finite number; [] if absent.

    Values of US are unsigned, also where PixelRepresentation makes them signed.
    """
    element = _element(source, name)
    if element is None or element.value is None:
        return []
    value, little = element.value, getattr(element, "is_little_endian", True)
    if isinstance(value, bytes):
        kind = element.VR
        if kind in (None, "UN"):
            tag = tag_for_keyword(name)
            kind = dictionary_VR(tag) if tag is not None else "UN"
        if kind in _BINARY:
            stored = np.dtype(_BINARY[kind]).newbyteorder("<" if little else ">")
            whole = len(value) // stored.itemsize * stored.itemsize
            return [_finite(one) for one in np.frombuffer(value[:whole], stored).tolist()]
        value = value.decode("latin-1").rstrip("\0 ")
        if not value:
            return []
    if isinstance(value, str):
        value = value.split("\\")
    values = list(value) if isinstance(value, list | tuple) or _many(value) else [value]
    return [_finite(one) for one in values]


def number(source: Dataset, name: str) -> float | None:
    """The value of a numeric element of one value; None if it is absent or unusable."""
    found = numbers(source, name)
    return found[0] if len(found) == 1 else None


def whole(source: Dataset, name: str) -> int | None:
    """As `number`, for integers."""
    found = number(source, name)
    return int(found) if found is not None and found == int(found) else None


def text(source: Dataset, name: str) -> str:
    """A code of one value, in capitals, without spaces around it; "" if absent or unusable."""
    element = _element(source, name)
    value = element.value if element is not None else None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value.strip("\0 ").upper() if isinstance(value, str) else ""


def items(source: Dataset, name: str) -> list[Dataset]:
    """The items of a sequence; [] if it is absent, empty or damaged."""
    try:
        value = source[name].value if name in source else None
        return [item for item in value or [] if isinstance(item, Dataset)]
    except Exception:
        return []


def _element(source: Dataset, name: str) -> DataElement | RawDataElement | None:
    try:
        return source.get_item(name) if name in source else None
    except Exception:
        return None


def _many(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)


def _finite(value: Any) -> float | None:
    if isinstance(value, str) and not _DECIMAL.fullmatch(value.strip("\0 ")):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
