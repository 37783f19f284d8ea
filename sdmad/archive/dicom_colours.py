"""Which colours decoded DICOM samples are, and their conversion to RGB.

The compressed data say what they hold, and PhotometricInterpretation is only believed where they do
not: files labelled RGB often hold YCbCr JPEG, and the reverse occurs.
"""

import io

import imagecodecs
import numpy as np
from PIL import Image
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGTransferSyntaxes,
)

from sdmad.archive.dicom_header import Header
from sdmad.archive.jpegs import headers

_LOSSY_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)
_DCT = (0xC0, 0xC1, 0xC2)
# ITU-R BT.601, as in JFIF and PS3.3 C.7.6.3.1.2: R, G, B from Y, Cb - 128, Cr - 128.
_FULL = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)
# YBR_PARTIAL: Y from 16 to 235, Cb and Cr from 16 to 240.
_PARTIAL = np.array(
    [[1.1644, 0, 1.5960], [1.1644, -0.3917, -0.8129], [1.1644, 2.0173, 0]], np.float32
)


def lossy_jpeg(syntax: UID, data: bytes, header: Header) -> np.ndarray | None:
    """Decoded samples of JPEG: colours of 8 bits (H, W, 3) as RGB, or greys of 12 bits (H, W).

    None for anything else, which pydicom's plugins decode.
    """
    found = headers(data) if syntax in _LOSSY_JPEG else None
    if found is None or found.kind not in _DCT or found.components != header.samples:
        return None
    if (found.components, found.precision) == (1, 12):
        values = imagecodecs.jpeg_decode(data, bitspersample=12).astype(np.int32)
        if header.signed:
            values -= (values >> (header.stored - 1)) << header.stored
        return values
    if (found.components, found.precision) != (3, 8):
        return None
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    if found.ycbcr is None and header.photometric == "RGB":
        image.draft("YCbCr", image.size)  # the samples as they are
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def is_luminance(syntax: UID, data: bytes, header: Header) -> bool:
    """Whether decoded samples are YCbCr, to be converted to RGB. `data` is one compressed frame."""
    labelled = header.photometric.startswith(("YBR_FULL", "YBR_PARTIAL"))
    if syntax in JPEG2000TransferSyntaxes:
        return labelled and not _component_transform(data)
    if syntax in JPEGTransferSyntaxes:
        found = headers(data)
        return labelled if found is None or found.ycbcr is None else found.ycbcr
    return labelled


def _component_transform(data: bytes) -> bool:
    """Whether JPEG 2000 data have a multiple component transformation, which decoders undo."""
    place = data.find(b"\xff\x4f\xff\x51")
    if place < 0:
        return False
    place += 2
    while data[place : place + 2] not in (b"\xff\x52", b"\xff\x90", b""):
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    # ISO/IEC 15444-1, A.6.1: COD, its length, style, order, layers (2), transformation.
    return data[place : place + 2] == b"\xff\x52" and data[place + 8 : place + 9] == b"\1"


def to_rgb(values: np.ndarray, header: Header) -> np.ndarray:
    """YCbCr (H, W, 3) of any depth as RGB of the same depth."""
    partial = header.photometric.startswith("YBR_PARTIAL")
    top, unit = (1 << header.stored) - 1, 1 << (header.stored - 8 if header.stored > 8 else 0)
    middle = 1 << (header.stored - 1)
    offset = np.array([16 * unit if partial else 0, middle, middle], np.float32)
    turned = (values.astype(np.float32) - offset) @ (_PARTIAL if partial else _FULL).T
    return np.clip(turned + 0.5, 0, top).astype(values.dtype)
