"""DICOM through pydicom: pixels as a viewer shows them, and no patient data.

The elements that describe pixels are checked first (`dicom_header`). Grey values pass rescale,
window or lookup table (`dicom_greys`), MONOCHROME1 is inverted, palettes are looked up
(`dicom_tables`), YCbCr becomes RGB (`dicom_colours`). Overlay planes and ICC profiles are not
applied. Only the elements in `_NEEDED` are parsed: patient data never enters, and no message
repeats text of the header.
"""

import io
import zlib
from dataclasses import replace

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame, parse_fragments
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from sdmad.archive import dicom_colours
from sdmad.archive.dicom_decoders import decoder
from sdmad.archive.dicom_elements import present, text
from sdmad.archive.dicom_greys import FUNCTIONAL, MODALITY, PADDING, VOI, grey_levels
from sdmad.archive.dicom_header import PIXELS, Header, header
from sdmad.archive.dicom_tables import palette
from sdmad.archive.greys import colours
from sdmad.archive.limits import INTERRUPTIONS, LARGEST_MEMBER_BYTES, DecodeError
from sdmad.archive.preprocess import ImageSpec

_SHAPE = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PlanarConfiguration")
_BITS = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_PALETTE = tuple(
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue", "SegmentedRed", "SegmentedGreen", "SegmentedBlue")
    for part in ("Descriptor", "Data")
    if not (colour.startswith("Segmented") and part == "Descriptor")
)
_NEEDED = [
    *("SOPClassUID", "PhotometricInterpretation", "PresentationLUTShape", "PixelPresentation"),
    *(MODALITY + VOI + PADDING + _SHAPE + _BITS + PIXELS + _OFFSETS + _PALETTE + FUNCTIONAL),
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
        self.syntax = self.dataset.file_meta.TransferSyntaxUID
        if not any(present(self.dataset, name) for name in PIXELS):
            raise DecodeError(f"DICOM without pixel data ({_kind(self.dataset)})")
        try:
            self.decoder = decoder(self.syntax)
        except NotImplementedError:
            name = self.syntax.name if self.syntax.is_transfer_syntax else "unknown"
            raise DecodeError(f"DICOM in a transfer syntax that is not read ({name})") from None
        head = header(self.dataset)
        self.data = self._data(head.keyword)
        self.header = self._not_subsampled(head)
        self._check_frames()
        self.plain = self._plain()

    @property
    def count(self) -> int:
        return self.header.frames

    def pixels(self, index: int, spec: ImageSpec) -> np.ndarray:
        """One frame, resized: (height, width, 3) uint8."""
        return spec.fit(self.frame(index, spec))

    def frame(self, index: int, spec: ImageSpec) -> Image.Image:
        """One frame at 8 bits, grey or RGB; raises `DecodeError` for what cannot be decoded."""
        try:
            stored = self._decoded(index)
        except (DecodeError, *INTERRUPTIONS):
            raise
        except MemoryError:
            raise DecodeError("too large for this machine's memory") from None
        except BaseException as error:
            # Panics of decoders written in Rust are not an `Exception`. Only the type is reported,
            # because the text may repeat elements of the header.
            what = f"DICOM pixel data cannot be decoded ({self.syntax.name})"
            raise DecodeError(f"{what}: {type(error).__name__}") from None
        try:
            return Image.fromarray(np.ascontiguousarray(self._shown(stored, index, spec)))
        except DecodeError:
            raise
        except Exception as error:
            what = "DICOM pixel values cannot be shown"
            raise DecodeError(f"{what}: {type(error).__name__}") from None

    def _data(self, keyword: str) -> bytes:
        try:
            data = self.dataset[keyword].value
        except Exception:
            data = None
        if not isinstance(data, bytes) or not data:
            raise DecodeError("DICOM with empty pixel data")
        return data

    def _not_subsampled(self, head: Header) -> Header:
        """The header, without subsampling if the length of native data shows that there is none."""
        full = head.rows * head.columns * head.samples * head.allocated * head.frames
        half = head.photometric.endswith("_422") and not self.syntax.is_compressed
        if half and len(self.data) * 8 >= full:
            return replace(head, photometric=head.photometric.replace("_422", ""))
        return head

    def _check_frames(self) -> None:
        """Raise `DecodeError` where the number of frames and the length of the data disagree."""
        if self.syntax.is_compressed:
            try:
                available = parse_fragments(self.data)[0]
            except Exception:
                raise DecodeError("DICOM with damaged encapsulated pixel data") from None
        else:
            available = len(self.data) * 8 // self.header.frame_bits
            if available > 1 and not self.header.frames_given:
                what = "DICOM without a usable NumberOfFrames"
                raise DecodeError(f"{what} and with pixel data for {available}")
        if available < self.count:
            raise DecodeError(f"DICOM of {self.count} frames with pixel data for {available}")

    def _plain(self) -> Dataset:
        """Pixel data and checked elements only, for pydicom."""
        head, plain = self.header, Dataset()
        plain.file_meta = self.dataset.file_meta
        plain.Rows, plain.Columns, plain.NumberOfFrames = head.rows, head.columns, head.frames
        plain.SamplesPerPixel, plain.PlanarConfiguration = head.samples, head.planar
        plain.PhotometricInterpretation = head.photometric
        if head.samples == 3:
            # Says only how samples are laid out: colours are converted here.
            half = head.photometric.endswith("_422") and not self.syntax.is_compressed
            plain.PhotometricInterpretation = "YBR_FULL_422" if half else "RGB"
        plain.BitsAllocated = head.allocated
        if not head.floating:
            # Up to the highest bit: those below the stored ones are shifted out afterwards.
            plain.BitsStored, plain.HighBit = head.high + 1, head.high
            plain.PixelRepresentation = int(head.signed)
        plain[head.keyword] = self.dataset[head.keyword]
        if all(self._offsets(name) for name in _OFFSETS):
            for name in _OFFSETS:
                plain[name] = self.dataset[name]
        return plain

    def _offsets(self, name: str) -> bool:
        try:
            return isinstance(self.dataset[name].value, bytes)
        except Exception:
            return False

    def _decoded(self, index: int) -> np.ndarray:
        """Stored values of one frame (rows, columns), or colours (rows, columns, 3) as RGB."""
        head = self.header
        if head.allocated == 12:
            return self._packed(index)
        compressed = self._compressed(index)
        values = dicom_colours.lossy_jpeg(self.syntax, compressed, head)
        if values is not None:
            if values.shape[:2] != (head.rows, head.columns):
                raise DecodeError("DICOM with JPEG data of another size than its header says")
            return values
        values, _ = self.decoder.as_array(self.plain, index=index, raw=True)
        if head.floating:
            return values
        below = head.high + 1 - head.stored
        if below:
            values = values >> below
        if head.samples == 3 and dicom_colours.is_luminance(self.syntax, compressed, head):
            return dicom_colours.to_rgb(values, head)
        return values

    def _compressed(self, index: int) -> bytes:
        """One frame as it is stored if it is compressed, else empty."""
        if not self.syntax.is_compressed:
            return b""
        offsets = None
        if "ExtendedOffsetTable" in self.plain:
            offsets = (self.plain.ExtendedOffsetTable, self.plain.ExtendedOffsetTableLengths)
        return get_frame(self.data, index, number_of_frames=self.count, extended_offsets=offsets)

    def _packed(self, index: int) -> np.ndarray:
        """Two values of 12 bits in three bytes (ACR-NEMA; PS3.5, 8.1.1 before 2007)."""
        head = self.header
        if self.syntax.is_compressed or not self.syntax.is_little_endian or head.samples != 1:
            raise DecodeError("DICOM with BitsAllocated 12, which is not read in this form")
        count = head.rows * head.columns
        nibbles = np.frombuffer(self.data, np.uint8)
        nibbles = np.stack([nibbles & 15, nibbles >> 4], axis=-1).ravel()
        nibbles = nibbles[index * count * 3 : (index + 1) * count * 3].reshape(-1, 3)
        values = nibbles.astype(np.int32) @ np.array([1, 16, 256], np.int32)
        values = (values >> (head.high + 1 - head.stored)) & ((1 << head.stored) - 1)
        if head.signed:
            values -= (values >> (head.stored - 1)) << head.stored
        return values.reshape(head.rows, head.columns).astype(
            np.int16 if head.signed else np.uint16
        )

    def _shown(self, stored: np.ndarray, index: int, spec: ImageSpec) -> np.ndarray:
        head, kind = self.header, self.header.photometric
        if kind == "PALETTE COLOR":
            found = palette(self.dataset, head.signed)
            if not found:
                raise DecodeError("DICOM without a usable palette")
            return found(stored)
        if head.samples == 3:
            return colours(stored, head.stored, spec.stretch)
        mixed = text(self.dataset, "PixelPresentation") in ("COLOR", "MIXED")
        coloured = palette(self.dataset, head.signed) if mixed else None
        beyond = stored >= coloured.first if coloured else None
        grey = grey_levels(stored, self.dataset, head, index, spec, beyond)
        if kind == "MONOCHROME1" or text(self.dataset, "PresentationLUTShape") == "INVERSE":
            grey = 255 - grey
        if coloured is None or beyond is None or not beyond.any():
            return grey
        # Supplemental palette (C.7.6.19): colours for the stored values from its first one on.
        shown = grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=-1)
        shown[beyond] = coloured(stored[beyond])
        return shown


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
        if not isinstance(dataset.file_meta.TransferSyntaxUID, UID):
            raise DecodeError("damaged DICOM: unusable TransferSyntaxUID")
    except DecodeError:
        raise
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
    uid = UID(text(dataset, "SOPClassUID"))
    return uid.name if uid.name != uid and uid.type == "SOP Class" else "unknown class"
