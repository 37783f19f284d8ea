"""Rescale, windows, lookup tables, padding and functional groups, against numpy and pydicom."""

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from sdmad.archive.decode import frames
from sdmad.archive.preprocess import ImageSpec, InputConfig, Window
from tests.archive.test_dicom import SAMPLES, between, dataset, saved

SPEC = ImageSpec((64, 64), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def shown(content: bytes, spec: ImageSpec = SPEC) -> np.ndarray:
    (frame,) = frames(content, spec)
    assert frame.pixels is not None, frame.reason
    return frame.pixels[..., 0].astype(int)


def made(pixels: np.ndarray = RAMP, stored: int = 12, **elements: object) -> Dataset:
    found = dataset(pixels, **elements)
    found.BitsStored, found.HighBit = stored, stored - 1
    return found


def stretched(values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    chosen = values if counted is None else values[counted]
    return between(values, *np.percentile(chosen.astype(float), (0.5, 99.5)))


def window(center: float, width: float, values: np.ndarray = RAMP) -> np.ndarray:
    """PS3.3, C.11.2.1.2: LINEAR."""
    part = (values.astype(float) - (center - 0.5)) / (width - 1) + 0.5
    return np.clip(part * 255, 0, 255)


def close(content: bytes, expected: np.ndarray, spec: ImageSpec = SPEC) -> None:
    assert np.abs(shown(content, spec) - expected).max() <= 0.6


def group(rescale: list[Dataset] | None = None, voi: list[Dataset] | None = None) -> Dataset:
    found = Dataset()
    if rescale is not None:
        found.PixelValueTransformationSequence = Sequence(rescale)
    if voi is not None:
        found.FrameVOILUTSequence = Sequence(voi)
    return found


def item(**elements: object) -> Dataset:
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def lut(descriptor: object, entries: np.ndarray, kind: str = "OW", first: str = "US") -> Dataset:
    found = Dataset()
    found.add_new("LUTDescriptor", first, descriptor)
    found.add_new("LUTData", kind, entries.tolist() if kind == "US" else entries.tobytes())
    return found


INVERSE = (4095 - np.arange(4096)).astype("<u2")
UNUSABLE = [b"    ", b"text", b"2,04", b"nan ", b"inf ", b"1_00", b"--12", b"\\\\\\\\", b"\0\0\0\0"]


@pytest.mark.parametrize("bad", UNUSABLE)
def test_unusable_decimals_count_as_absent(bad) -> None:
    """7777 in the file is replaced by text of the same length."""

    def close_with(expected: np.ndarray, **elements: object) -> None:
        content = saved(made(**elements))
        assert content.count(b"7777") == 1
        close(content.replace(b"7777", bad), expected)

    close_with(stretched(RAMP), WindowCenter="7777", WindowWidth="1000")
    close_with(stretched(RAMP), WindowCenter="2048", WindowWidth="7777")
    shown_by = {"WindowCenter": "2048", "WindowWidth": "1000"}
    for name, other in (("Slope", "Intercept"), ("Intercept", "Slope")):
        elements = {f"Rescale{name}": "7777", f"Rescale{other}": "1" if other == "Slope" else "0"}
        close_with(window(2048, 1000), **shown_by, **elements)
    if b"\\" not in bad:
        close_with(window(2048, 1000), WindowCenter=["7777", "2048"], WindowWidth=["5", "1000"])


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"WindowCenter": "2048", "WindowWidth": "0"}, None),
        ({"WindowCenter": "2048", "WindowWidth": "-5"}, None),
        ({"WindowCenter": "2048", "WindowWidth": "0.5"}, None),
        ({"WindowCenter": "9", "WindowWidth": "-5", "VOILUTFunction": "LINEAR_EXACT"}, None),
        ({"WindowCenter": "9", "WindowWidth": "-5", "VOILUTFunction": "SIGMOID"}, None),
        ({"WindowCenter": "2048"}, None),
        ({"WindowWidth": "1000"}, None),
        ({"WindowCenter": ["1", "2048"], "WindowWidth": ["0", "1000"]}, window(2048, 1000)),
        ({"WindowCenter": ["", "2048"], "WindowWidth": ["9", "1000"]}, window(2048, 1000)),
        ({"WindowCenter": ["2048", "1"], "WindowWidth": "1000"}, window(2048, 1000)),
        ({"WindowCenter": "2048", "WindowWidth": "1"}, (RAMP > 2047.5) * 255.0),
        ({"WindowCenter": "2048", "WindowWidth": "1000", "VOILUTFunction": ""}, window(2048, 1000)),
        ({"WindowCenter": "2048", "WindowWidth": "1e3", "VOILUTFunction": "X"}, window(2048, 1000)),
        ({"RescaleSlope": None, "RescaleIntercept": None}, None),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, None),
        ({"VOILUTSequence": Sequence([])}, None),
        ({"ModalityLUTSequence": Sequence([])}, None),
    ],
)
def test_unusable_windows_and_sequences_count_as_absent(elements, expected) -> None:
    close(saved(made(**elements)), stretched(RAMP) if expected is None else expected)


def test_several_values_of_rescale_count_as_absent() -> None:
    elements = {"WindowCenter": "2048", "WindowWidth": "1000", "RescaleIntercept": "0"}
    close(saved(made(RescaleSlope=["2", "3"], **elements)), window(2048, 1000))


def test_a_missing_slope_is_1_and_a_missing_intercept_0() -> None:
    elements = {"WindowCenter": "2048", "WindowWidth": "1000"}
    close(saved(made(RescaleIntercept="-1000", **elements)), window(2048, 1000, RAMP - 1000.0))
    close(saved(made(RescaleSlope="2", **elements)), window(2048, 1000, RAMP * 2.0))


@pytest.mark.parametrize("slope", ["0.25", "-0.25"])
def test_percentiles_are_those_of_rescaled_values(slope) -> None:
    """Of an image that is mostly dark, so that turning it over changes them."""
    skewed = (RAMP.astype(int) ** 2 // 4096).astype(np.uint16)
    values = skewed * float(slope) - 1024
    content = saved(made(skewed, RescaleSlope=slope, RescaleIntercept="-1024"))
    close(content, stretched(values))
    own = InputConfig(stretch=(0, 80)).apply(SPEC)
    close(content, between(values, *np.percentile(values, (0, 80))), own)


def test_a_negative_slope_turns_the_window_over() -> None:
    content = saved(
        made(RescaleSlope="-1", RescaleIntercept="0", WindowCenter="-2048", WindowWidth="1000")
    )
    close(content, window(-2048, 1000, -RAMP.astype(float)))


def test_a_width_below_1_is_used_where_values_are_fractions() -> None:
    """Width 0.2 spans 2,000 stored values, and no formula but LINEAR_EXACT takes it."""
    elements = {"WindowCenter": "0.2", "WindowWidth": "0.2"}
    content = saved(made(RescaleSlope="0.0001", RescaleIntercept="0", **elements))
    close(content, between(RAMP * 1e-4, 0.1, 0.3))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1, 7.5, 1000])
def test_windows_equal_those_of_pydicom(function, width) -> None:
    elements = {"VOILUTFunction": function, "WindowCenter": 2048, "WindowWidth": width}
    file = made(RescaleSlope="0.5", RescaleIntercept="1000", **elements)
    found = apply_windowing(apply_modality_lut(RAMP, file), file)
    close(saved(file), between(found, 1000, 1000 + 4095 * 0.5))


def test_windows_of_other_value_representations_are_read() -> None:
    file = made()
    file.add_new("WindowCenter", "FD", 2048.0)
    file.add_new("WindowWidth", "US", 1000)
    close(saved(file), window(2048, 1000))


@pytest.mark.parametrize(
    "table",
    [
        lut([4096, 0, 12], INVERSE),
        lut([4096, 0, 12], INVERSE, "US"),
        lut([4096, 0, 16], INVERSE),  # entries of 12 bits, said to have 16
        lut([4096, 0, 16], (INVERSE * 16.0036).astype("<u2")),
        lut([4096, 0, 8], (INVERSE >> 4).astype(np.uint8)),
        lut([4096, 0, 8], INVERSE >> 4),
    ],
)
def test_a_voi_lut_is_applied_whatever_its_layout(table) -> None:
    expected = 255 - RAMP / 4095 * 255
    assert np.abs(shown(saved(made(VOILUTSequence=Sequence([table])))) - expected).max() <= 1


def test_a_voi_lut_equals_that_of_pydicom_also_beyond_its_ends() -> None:
    entries = (np.arange(1000) ** 2 // 16).astype("<u2")
    file = made(VOILUTSequence=Sequence([lut([1000, 500, 16], entries)]))
    file.BitsAllocated, file.BitsStored = 16, 12
    close(saved(file), apply_voi(RAMP, file) / 65535 * 255)
    for descriptor, first in (([4096, -1024, 12], "SS"), ([4096, 65536 - 1024, 12], "US")):
        table = lut(descriptor, INVERSE, first=first)
        file = made(VOILUTSequence=Sequence([table]), RescaleSlope="1", RescaleIntercept="-1024")
        close(saved(file), 255 - RAMP / 4095 * 255)


BROKEN_TABLES = [
    lut(None, INVERSE),
    lut([4096, 0], INVERSE),
    lut([4096, 0, 12], INVERSE[:100]),
    lut([4096, 0, 12], INVERSE[:0]),
]


@pytest.mark.parametrize("broken", BROKEN_TABLES)
def test_an_unusable_table_counts_as_absent(broken) -> None:
    file = made(VOILUTSequence=Sequence([broken]))
    close(saved(file), stretched(RAMP))
    good = lut([4096, 0, 12], INVERSE)
    file.VOILUTSequence = Sequence([broken, good])
    close(saved(file), 255 - RAMP / 4095 * 255)
    elements = {"WindowCenter": "2048", "WindowWidth": "1000"}
    rescale = {"RescaleSlope": "2", "RescaleIntercept": "0"}
    file = made(ModalityLUTSequence=Sequence([broken]), **rescale, **elements)
    close(saved(file), window(2048, 1000, RAMP * 2))


def test_the_rules_follow_each_other_window_then_table_then_percentiles() -> None:
    tables = {"VOILUTSequence": Sequence([lut([4096, 0, 12], INVERSE)])}
    close(saved(made(WindowCenter="2048", WindowWidth="1000", **tables)), window(2048, 1000))
    close(saved(made(WindowCenter="2048", WindowWidth="0", **tables)), 255 - RAMP / 4095 * 255)
    own = InputConfig(window={"center": 1000, "width": 500}).apply(SPEC)
    content = saved(made(WindowCenter="2048", WindowWidth="1000", **tables))
    close(content, between(RAMP, 750, 1250), own)


def test_a_modality_lut_equals_that_of_pydicom_and_goes_before_rescale() -> None:
    table = lut([4096, 0, 16], INVERSE * 3)
    elements = {"WindowCenter": "3000", "WindowWidth": "5000", "RescaleSlope": "9"}
    file = made(ModalityLUTSequence=Sequence([table]), **elements)
    close(saved(file), window(3000, 5000, apply_modality_lut(RAMP, file)))


@pytest.mark.parametrize(
    ("high", "stored"), [(11, 12), (15, 12), (13, 12), (12, 10), (15, 8), (15, 16)]
)
@pytest.mark.parametrize("signed", [False, True])
def test_stored_bits_lie_where_high_bit_says(high, stored, signed) -> None:
    """Bits outside are junk, as overlays are."""
    values = RAMP.astype(int) & ((1 << stored) - 1)
    if signed:
        values = values - (1 << (stored - 1))
    inside = ((1 << stored) - 1) << (high + 1 - stored)
    junk = np.random.default_rng(0).integers(0, 65536, RAMP.shape) & ~inside & 65535
    file = made(((values << (high + 1 - stored)) & inside | junk).astype(np.uint16), stored)
    file.HighBit, file.PixelRepresentation = high, int(signed)
    close(saved(file), stretched(values))
    if stored > 8:
        file.compress(RLELossless, generate_instance_uid=False)
        close(saved(file), stretched(values))


@pytest.mark.parametrize("high", [None, 0, 7, 16])
def test_a_high_bit_that_cannot_be_is_bits_stored_minus_1(high) -> None:
    file = made()
    file.HighBit = high
    close(saved(file), stretched(RAMP))


@pytest.mark.parametrize("signed", [False, True])
def test_two_values_of_12_bits_in_three_bytes_are_read(signed) -> None:
    values = RAMP.astype(int) - (2048 if signed else 0)
    pairs = (values & 4095).reshape(-1, 2)
    low, high = pairs[:, 0], pairs[:, 1]
    packed = np.stack([low & 255, low >> 8 | (high & 15) << 4, high >> 4], -1).astype(np.uint8)
    file = made()
    file.BitsAllocated, file.PixelRepresentation = 12, int(signed)
    file.PixelData = packed.tobytes() + packed[::-1].tobytes()
    file["PixelData"].VR = "OW"
    file.NumberOfFrames = 2
    backwards = values.reshape(-1, 2)[::-1].reshape(values.shape)
    for frame, expected in zip(frames(saved(file), SPEC), (values, backwards), strict=True):
        assert np.abs(frame.pixels[..., 0] - stretched(expected)).max() <= 0.51


def test_jpeg_of_12_bits_equals_that_of_another_decoder() -> None:
    """pydicom asks pylibjpeg-libjpeg, and cannot read the second file, which is the same image."""
    spec = ImageSpec((1024, 256), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
    first, second = (SAMPLES / f"{name}.dcm" for name in ("JPGExtended", "JPEG-lossy"))
    other = pydicom.dcmread(first).pixel_array
    for path in (first, second):
        found = frames(path.read_bytes(), replace(spec, windows=(Window(127.5, 255),)))
        (frame,) = found
        assert np.abs(frame.pixels[..., 0].astype(int) - np.minimum(other, 255)).max() <= 1


@pytest.mark.parametrize("step", [1, 1_000_000])
def test_pixels_of_32_bits_are_read_signed_and_unsigned(step) -> None:
    wide = RAMP.astype(np.uint32) * step
    close(saved(made(wide, 32)), stretched(wide))
    signed = (wide.astype(np.int64) - 2_000_000_000).astype(np.int32)
    close(saved(made(signed, 32)), stretched(signed))


@pytest.mark.parametrize(
    ("stored", "value", "limit"),
    [
        *((16, ("SS", -2000), None), (16, ("US", 63_536), None), (12, ("US", 63_536), None)),
        *((12, ("US", 2096), None), (16, ("SS", -2000), ("SS", -1990))),
        *((16, ("US", 63_536), ("US", 63_546)), (16, ("SS", -1990), ("US", 63_536))),
    ],
)
def test_padding_of_signed_pixels_may_be_written_as_unsigned(stored, value, limit) -> None:
    padded = RAMP.astype(np.int16) // 2 - 1024
    padded[:4] = -2000
    if limit:
        padded[4:8] = -1990
    file = made(padded, stored)
    file.add_new("PixelPaddingValue", *value)
    if limit:
        file.add_new("PixelPaddingRangeLimit", *limit)
    close(saved(file), stretched(padded, padded > -1500))


def test_padding_of_unsigned_pixels_may_be_written_as_signed() -> None:
    padded = RAMP.copy()
    padded[:4] = 63_536
    file = made(padded, 16)
    file.add_new("PixelPaddingValue", "SS", -2000)
    close(saved(file), stretched(padded, padded < 60_000))


@pytest.mark.parametrize("value", [None, [0, 1], "none"])
def test_unusable_padding_counts_as_absent(value) -> None:
    """An eighth of the pixels is 0; without them the percentiles are others."""
    dark = np.where(RAMP < 512, 0, RAMP).astype(np.uint16)
    file = made(dark)
    file.add_new("PixelPaddingValue", "LO" if value == "none" else "US", value)
    close(saved(file), stretched(dark))


@pytest.mark.parametrize(
    ("prefix", "kind", "bits"), [("Float", "f4", 32), ("DoubleFloat", "f8", 64)]
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_float_pixels_are_read_without_their_padding(prefix, kind, bits, syntax) -> None:
    """As parametric maps have them, each frame with a window of its own."""
    values = (RAMP / 7 - 100).astype(kind)
    values[:2], values[2, 0], values[2, 1] = -9999, np.nan, np.inf
    little = syntax == ExplicitVRLittleEndian
    file = made()
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(file, name)
    file.BitsAllocated = bits
    file.file_meta.TransferSyntaxUID = syntax
    data = np.stack([values] * 2).astype(("<" if little else ">") + kind).tobytes()
    setattr(file, f"{prefix}PixelData", data)
    setattr(file, f"{prefix}PixelPaddingValue", -9999.0)
    file.NumberOfFrames = 2
    file.PerFrameFunctionalGroupsSequence = Sequence(
        [group(voi=[item(WindowCenter="100", WindowWidth="0.5")]), group(voi=[])]
    )
    sink = io.BytesIO()
    pydicom.dcmwrite(sink, file, implicit_vr=False, little_endian=little, enforce_file_format=True)
    one, other = (frame.pixels[..., 0] for frame in frames(sink.getvalue(), SPEC))
    finite = np.where(np.isfinite(values), values, -1e9).astype(float)
    assert np.abs(one - between(finite, 99.75, 100.25)).max() <= 0.51
    assert np.abs(other - stretched(finite, finite > -5000)).max() <= 0.51


@pytest.mark.parametrize(
    "unusable",
    [
        [],
        [item()],
        [item(WindowWidth="10")],
        [item(WindowCenter="5", WindowWidth="0")],
        [item(RescaleSlope=None, RescaleIntercept=None)],
    ],
)
def test_an_unusable_setting_of_a_frame_is_that_of_all_frames(unusable) -> None:
    file = made(np.stack([RAMP, RAMP]))
    rescale = item(RescaleSlope="2", RescaleIntercept="10")
    voi = item(WindowCenter="2048", WindowWidth="1000")
    file.SharedFunctionalGroupsSequence = Sequence([group([rescale], [voi])])
    own = group([item(RescaleSlope="1", RescaleIntercept="0")], unusable)
    file.PerFrameFunctionalGroupsSequence = Sequence([group(unusable, unusable), own])
    first, second = (frame.pixels[..., 0] for frame in frames(saved(file), SPEC))
    assert np.abs(first - window(2048, 1000, RAMP * 2 + 10)).max() <= 0.51
    assert np.abs(second - window(2048, 1000)).max() <= 0.51


def test_a_segmentation_of_1_bit_is_black_and_white_also_where_it_is_constant() -> None:
    marked = np.random.default_rng(0).integers(0, 2, (3, 5, 5))
    marked[1] = 1
    file = dataset(marked.astype(np.uint8))
    file.BitsAllocated = file.BitsStored = 1
    file.HighBit = 0
    file.PixelData = np.packbits(marked.ravel(), bitorder="little").tobytes()
    found = frames(saved(file), ImageSpec((5, 5), (0.5,) * 3, (0.2,) * 3))
    for frame, expected in zip(found, marked, strict=True):
        assert np.array_equal(frame.pixels[..., 0], expected * 255)
