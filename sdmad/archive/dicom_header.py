"""The elements that describe stored pixels (PS3.3 C.7.6.3), checked before any decoder is used."""

from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import RLELossless

from sdmad.archive.dicom_elements import number, present, text, whole
from sdmad.archive.limits import LARGEST_IMAGE_PIXELS, MOST_FRAMES, DecodeError

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_FLOAT_BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
_GREY = ("MONOCHROME1", "MONOCHROME2")
_LUMINANCE = ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
_SAMPLES = dict.fromkeys((*_GREY, "PALETTE COLOR"), 1) | dict.fromkeys(("RGB", *_LUMINANCE), 3)
_KNOWN_BUT_NOT_READ = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_420", "XYB")
_ALLOCATED = (1, 8, 12, 16, 32, 64)


@dataclass(frozen=True)
class Header:
    """How pixels are stored. `stored` bits end at bit `high`; `keyword` names their element."""

    keyword: str
    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    planar: int
    frames: int
    frames_given: bool

    @property
    def floating(self) -> bool:
        return self.keyword in _FLOAT_BITS

    @property
    def grey(self) -> bool:
        return self.photometric in _GREY

    @property
    def frame_bits(self) -> int:
        """The bits of one frame that is not compressed."""
        bits = self.rows * self.columns * self.samples * self.allocated
        return bits * 2 // 3 if self.photometric.endswith("_422") else bits


def header(dataset: Dataset) -> Header:
    """The checked elements; raises `DecodeError`, which names the element that is not usable.

    Where the standard allows only one value, it stands in for an absent one: SamplesPerPixel
    follows from PhotometricInterpretation, HighBit is BitsStored - 1, pixels of 1 bit and colours
    are unsigned.
    """
    keywords = [name for name in PIXELS if present(dataset, name)]
    if len(keywords) != 1:
        raise DecodeError("DICOM with both integer and float pixel data")
    rows, columns = (_positive(dataset, name) for name in ("Rows", "Columns"))
    if rows * columns > LARGEST_IMAGE_PIXELS:
        raise DecodeError(f"too many pixels: {columns} x {rows}")
    photometric, samples = _photometric(dataset)
    frames, frames_given = _frames(dataset)
    if keywords[0] in _FLOAT_BITS:
        bits = _FLOAT_BITS[keywords[0]]
        allocated, stored, high, signed = bits, bits, bits - 1, False
        if photometric not in _GREY:
            raise DecodeError(f"DICOM of {photometric} with float pixel data")
    else:
        allocated, stored, high = _bits(dataset)
        signed = samples == 1 and allocated > 1 and _signed(dataset)
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    planar = 0
    if samples == 3 and not compressed and not photometric.endswith("_422"):
        planar = _required(dataset, "PlanarConfiguration")
        if planar not in (0, 1):
            raise DecodeError("DICOM with unusable PlanarConfiguration")
    return Header(
        keyword=keywords[0],
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high=high,
        signed=signed,
        planar=planar,
        frames=frames,
        frames_given=frames_given,
    )


def _photometric(dataset: Dataset) -> tuple[str, int]:
    """PhotometricInterpretation and SamplesPerPixel. Unknown text is not repeated in a reason."""
    photometric = text(dataset, "PhotometricInterpretation")
    if not photometric:
        raise DecodeError("DICOM without PhotometricInterpretation")
    if photometric in _KNOWN_BUT_NOT_READ:
        raise DecodeError(f"DICOM with PhotometricInterpretation {photometric}, which is not read")
    if photometric not in _SAMPLES:
        raise DecodeError("DICOM with unknown PhotometricInterpretation")
    samples = _SAMPLES[photometric]
    given = number(dataset, "SamplesPerPixel")
    if given and given != samples:
        raise DecodeError(
            f"DICOM with PhotometricInterpretation {photometric} and SamplesPerPixel {given:g}"
        )
    return photometric, samples


def _bits(dataset: Dataset) -> tuple[int, int, int]:
    """BitsAllocated, BitsStored and HighBit."""
    allocated = _positive(dataset, "BitsAllocated")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and 8 < allocated < 16:
        allocated = 16  # what decoders return
    if allocated not in _ALLOCATED:
        raise DecodeError(f"DICOM with BitsAllocated {allocated}, which is not read")
    stored = 1 if allocated == 1 else _positive(dataset, "BitsStored")
    if stored > allocated:
        raise DecodeError(f"DICOM with BitsAllocated {allocated} and BitsStored {stored}")
    high = whole(dataset, "HighBit")
    own_precision = syntax.is_compressed and syntax != RLELossless
    if high is None or not stored - 1 <= high < allocated or own_precision:
        high = stored - 1
    return allocated, stored, high


def _signed(dataset: Dataset) -> bool:
    found = _required(dataset, "PixelRepresentation")
    if found not in (0, 1):
        raise DecodeError("DICOM with unusable PixelRepresentation")
    return bool(found)


def _frames(dataset: Dataset) -> tuple[int, bool]:
    """The number of frames, and whether the file gives it; 1 if it does not."""
    count = whole(dataset, "NumberOfFrames")
    if count is None or count <= 0:
        return 1, False
    if count > MOST_FRAMES:
        raise DecodeError(f"too many frames: {count}")
    return count, True


def _positive(dataset: Dataset, name: str) -> int:
    found = _required(dataset, name)
    if found <= 0:
        raise DecodeError(f"DICOM with unusable {name}")
    return found


def _required(dataset: Dataset, name: str) -> int:
    found = whole(dataset, name)
    if found is None:
        raise DecodeError(f"DICOM {'with unusable' if _given(dataset, name) else 'without'} {name}")
    return found


def _given(dataset: Dataset, name: str) -> bool:
    """Whether the element has a value, of whatever kind."""
    try:
        return present(dataset, name) and bool(dataset.get_item(name).value)
    except Exception:
        return True
