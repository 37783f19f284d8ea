"""DICOM through pydicom: pixels as a viewer shows them, and no patient data.

Stored values pass the modality transformation (rescale or LUT, PS3.3 C.11.1), then the configured
windows, else the file's first window or VOI LUT (C.11.2), per frame where an enhanced object says
so; without one they are stretched between percentiles of the frame, padding left out. MONOCHROME1
is inverted, PALETTE COLOR looked up, YBR turned into RGB. Only the elements in `_NEEDED` are
parsed: patient data never enters, and no message repeats a value.
"""

import io
import logging
import zlib
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import parse_fragments
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
)
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from sdmad.archive.greys import stretch, windowed
from sdmad.archive.limits import (
    INTERRUPTIONS,
    LARGEST_IMAGE_PIXELS,
    LARGEST_MEMBER_BYTES,
    MOST_FRAMES,
    DecodeError,
)
from sdmad.archive.preprocess import ImageSpec

logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_MODALITY = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
_VOI = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")
_SHAPE = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PlanarConfiguration")
_BITS = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PALETTE = tuple(
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue", "SegmentedRed", "SegmentedGreen", "SegmentedBlue")
    for part in ("Descriptor", "Data")
    if not (colour.startswith("Segmented") and part == "Descriptor")
)
_FUNCTIONAL = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_NEEDED = [
    *("SOPClassUID", "PhotometricInterpretation", "PresentationLUTShape"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(_MODALITY + _VOI + _SHAPE + _BITS + _PIXELS + _PALETTE + _FUNCTIONAL),
]


def is_dicom(content: bytes) -> bool:
    """Whether a file has the prefix DICM (PS3.10, 7.1)."""
    return content[128:132] == b"DICM"


def may_be_dicom(content: bytes) -> bool:
    """Whether a file without that prefix starts with an element of group 2 or 8."""
    return content[:2] in (b"\x02\x00", b"\x08\x00") and content[3:4] == b"\x00"


class DicomFile:
    """A DICOM image. Raises `DecodeError` for a file that is not one."""

    def __init__(self, content: bytes) -> None:
        _check_deflated(content)
        self.dataset = _parsed(content)
        self.count = self._count()

    def pixels(self, index: int, spec: ImageSpec) -> np.ndarray:
        """One frame, resized: (height, width, 3) uint8."""
        return spec.fit(self.frame(index, spec))

    def frame(self, index: int, spec: ImageSpec) -> Image.Image:
        """One frame at 8 bits, grey or RGB; raises `DecodeError` for what cannot be decoded."""
        syntax = self.dataset.file_meta.TransferSyntaxUID
        try:
            array = pixel_array(self.dataset, index=index)
        except MemoryError:
            raise DecodeError("too large for this machine's memory") from None
        except INTERRUPTIONS:
            raise
        except BaseException as error:
            # Panics of decoders written in Rust are not an `Exception`. Only the type is reported,
            # because the text may repeat elements of the header.
            what = f"DICOM pixel data cannot be decoded ({syntax.name})"
            raise DecodeError(f"{what}: {type(error).__name__}") from None
        try:
            return Image.fromarray(np.ascontiguousarray(self._shown(array, index, spec)))
        except DecodeError:
            raise
        except Exception as error:
            what = "DICOM grey values cannot be mapped"
            raise DecodeError(f"{what}: {type(error).__name__}") from None

    def _count(self) -> int:
        dataset = self.dataset
        if not any(name in dataset for name in _PIXELS):
            raise DecodeError(f"DICOM without pixel data ({_kind(dataset)})")
        try:
            rows, columns = int(dataset.Rows), int(dataset.Columns)
            samples = int(dataset.get("SamplesPerPixel", 1) or 1)
            count = int(dataset.get("NumberOfFrames", 1) or 1)
            bits = int(dataset.BitsAllocated)
        except (AttributeError, TypeError, ValueError):
            raise DecodeError("DICOM without the size of its pixel data") from None
        if rows * columns > LARGEST_IMAGE_PIXELS:
            raise DecodeError(f"too many pixels: {columns} x {rows}")
        if not 1 <= count <= MOST_FRAMES:
            raise DecodeError(f"too many frames: {count}")
        available = self._frames_there(rows * columns * samples * bits, count)
        if available < count:
            raise DecodeError(f"DICOM of {count} frames with pixel data for {available}")
        return count

    def _frames_there(self, bits_a_frame: int, count: int) -> int:
        """The largest number of frames that the pixel data can hold."""
        data = next(self.dataset[name].value for name in _PIXELS if name in self.dataset)
        if not isinstance(data, bytes):
            raise DecodeError("DICOM with empty pixel data")
        if not self.dataset.file_meta.TransferSyntaxUID.is_compressed:
            subsampled = self.dataset.get("PhotometricInterpretation") == "YBR_FULL_422"
            bits = bits_a_frame * 2 // 3 if subsampled else bits_a_frame
            return len(data) * 8 // max(1, bits)
        try:
            return parse_fragments(data)[0]
        except Exception:
            raise DecodeError("DICOM with damaged encapsulated pixel data") from None

    def _shown(self, array: np.ndarray, index: int, spec: ImageSpec) -> np.ndarray:
        kind = str(self.dataset.get("PhotometricInterpretation", "MONOCHROME2"))
        if kind == "PALETTE COLOR":
            colours = apply_color_lut(array, self.dataset)[..., :3]
            bits = int(self.dataset.RedPaletteColorLookupTableDescriptor[2])
            return _to_eight_bits(colours, bits)
        if array.ndim == 3:
            return _to_eight_bits(array[..., :3], int(self.dataset.get("BitsStored", 8)))
        settings = self._settings(index)
        values = apply_modality_lut(array, settings)
        if spec.windows:
            grey = windowed(values, spec.windows)
        elif "VOILUTSequence" in settings:
            bits = int(settings.VOILUTSequence[0].LUTDescriptor[2])
            grey = _to_eight_bits(apply_voi(values.astype(np.int64), settings), bits)
        elif settings.get("WindowWidth"):
            grey = _file_window(values, settings)
        else:
            grey = stretch(values, spec.stretch, self._no_padding(array))
        inverse = kind == "MONOCHROME1" or self.dataset.get("PresentationLUTShape") == "INVERSE"
        return 255 - grey if inverse else grey

    def _no_padding(self, array: np.ndarray) -> np.ndarray | None:
        """Where stored values are no padding (PS3.3 C.7.5.1.1.2); None where all count."""
        padding = self.dataset.get("PixelPaddingValue")
        if padding is None:
            return None
        limit = self.dataset.get("PixelPaddingRangeLimit")
        # Some files write the padding of signed pixels as unsigned.
        ends = np.array([padding, padding if limit is None else limit]).astype(array.dtype)
        return (array < ends.min()) | (array > ends.max())

    def _settings(self, index: int) -> Dataset:
        """Modality and VOI settings of one frame: its own, else the shared, else the object's."""
        settings = Dataset()
        for source in (self.dataset, *self._groups(index)):
            for name in (*_MODALITY, *_VOI, "BitsStored", "PixelRepresentation"):
                if name in source:
                    setattr(settings, name, source[name].value)
        settings.PhotometricInterpretation = "MONOCHROME2"
        settings.file_meta = self.dataset.file_meta
        return settings

    def _groups(self, index: int) -> list[Dataset]:
        found = []
        for name, position in zip(_FUNCTIONAL, (0, index), strict=True):
            groups = self.dataset.get(name) or []
            if position < len(groups):
                for inner in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                    found += list(groups[position].get(inner) or [])[:1]
        return found


def _parsed(content: bytes) -> Dataset:
    try:
        dataset = dcmread(io.BytesIO(content), force=True, specific_tags=_NEEDED)
        if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
            dataset.ensure_file_meta()
            implicit, little = dataset.original_encoding
            syntax = ImplicitVRLittleEndian
            if not implicit:
                syntax = UID("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")
            dataset.file_meta.TransferSyntaxUID = syntax
        for name in _NEEDED:
            # pydicom parses an element on first access: damaged elements raise here.
            dataset.get(name)
    except (InvalidDicomError, EOFError):
        raise DecodeError("damaged DICOM") from None
    except Exception as error:
        raise DecodeError(f"damaged DICOM: {type(error).__name__}") from None
    return dataset


def _check_deflated(content: bytes) -> None:
    """Raise `DecodeError` if a deflated object (PS3.5 A.5) would unpack to more than the limit.

    pydicom unpacks it in one step, without a limit.
    """
    if DeflatedExplicitVRLittleEndian.encode() not in content[132:2048]:
        return
    start = 144 + int.from_bytes(content[140:144], "little")
    unpacker, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, content[start:]
    try:
        while rest and not unpacker.eof:
            size += len(unpacker.decompress(rest, 16 << 20))
            rest = unpacker.unconsumed_tail
            if size > LARGEST_MEMBER_BYTES:
                raise DecodeError("deflated DICOM of more than 1 GiB")
    except zlib.error:
        raise DecodeError("damaged deflated DICOM") from None


def _kind(dataset: Dataset) -> str:
    """The name of the SOP class if the standard defines it, else "unknown class"."""
    uid = UID(str(dataset.get("SOPClassUID", "")))
    return uid.name if uid.name != uid and uid.type == "SOP Class" else "unknown class"


def _file_window(values: np.ndarray, settings: Dataset) -> np.ndarray:
    """The file's first window, with its output range at 0 to 255."""
    for name in ("WindowCenter", "WindowWidth"):
        if isinstance(settings[name].value, MultiValue):
            setattr(settings, name, settings[name].value[0])
    # Values far outside the window give the ends of the output range.
    ends: Any = apply_windowing(np.array([-1e12, 1e12]), settings)
    shown = apply_windowing(values.astype(np.float64), settings)
    scaled = (shown - ends[0]) * (255 / max(float(ends[1] - ends[0]), 1e-12)) + 0.5
    return np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)


def _to_eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8 and values.dtype == np.uint8:
        return values
    scaled = values.astype(np.float32) * (255 / ((1 << bits) - 1)) + 0.5
    return np.clip(scaled, 0, 255).astype(np.uint8)
