"""DICOM: pixels as a viewer shows them, frames, and no patient data in messages."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from sdmad.archive import dicom
from sdmad.archive.decode import count_frames, decode, frames
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec, InputConfig

SPEC = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
UID = "1.2.826.0.1.3680043.8.498.1"  # not random: no test may meet its own digits
SECRET = "Doe^Jane^SECRET"  # noqa: S105 - a patient's name


def dataset(pixels: np.ndarray, kind: str = "MONOCHROME2", **elements: object) -> Dataset:
    """(rows, columns), (frames, rows, columns) or (rows, columns, 3), of 8 or 16 bits."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = UID
    made.PatientName = SECRET
    made.PatientID = SECRET
    made.InstitutionName = SECRET
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    if pixels.ndim == 3 and not colour:
        made.NumberOfFrames = len(pixels)
    made.Rows, made.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    made.SamplesPerPixel = 3 if colour else 1
    if colour:
        made.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit = bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PhotometricInterpretation = kind
    made.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def saved(made: Dataset, **options: object) -> bytes:
    sink = io.BytesIO()
    made.save_as(sink, enforce_file_format=True, **options)
    return sink.getvalue()


def ramp(dtype: type = np.uint16, step: int = 100) -> np.ndarray:
    return (np.arange(64).reshape(8, 8) * step).astype(dtype)


def grey(content: bytes, spec: ImageSpec = SPEC) -> np.ndarray:
    return decode(content, spec)[..., 0].astype(int)


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey levels of values from `low` (black) to `high` (white)."""
    return np.clip((values.astype(float) - low) / (high - low) * 255, 0, 255)


def test_without_a_window_grey_is_stretched_between_percentiles() -> None:
    for made in (dataset(ramp()), dataset(ramp(np.int16), RescaleSlope=2, RescaleIntercept=-1000)):
        expected = between(ramp(), *np.percentile(ramp(), (0.5, 99.5)))
        assert np.abs(grey(saved(made)) - expected).max() <= 0.51
        own = InputConfig(stretch=(10, 80)).apply(SPEC)
        expected = between(ramp(), *np.percentile(ramp(), (10, 80)))
        assert np.abs(grey(saved(made), own) - expected).max() <= 0.51


def test_a_saturated_marker_does_not_turn_tissue_black() -> None:
    film = np.tile(np.linspace(0, 1000, 32).astype(np.uint16), (32, 1))
    film[1, 1:5] = 16_383
    spec = ImageSpec((32, 32), SPEC.mean, SPEC.std)
    assert np.delete(grey(saved(dataset(film)), spec), 1, axis=0).std() > 60


def test_the_first_window_applies_to_rescaled_values() -> None:
    """Stored values 0..6300 are -1000..5300 HU; the window 200 +- 200 HU shows 0..400 HU."""
    made = dataset(ramp(), RescaleSlope=1, RescaleIntercept=-1000)
    made.WindowCenter, made.WindowWidth = [200, 2000], [400, 4000]
    shown = grey(saved(made)).ravel()
    hounsfield = np.arange(64) * 100 - 1000
    assert (shown[hounsfield <= 0] == 0).all()
    assert (shown[hounsfield >= 400] == 255).all()
    assert 120 <= shown[hounsfield == 200][0] <= 135


def test_a_voi_lut_is_applied() -> None:
    lut = Dataset()
    lut.LUTDescriptor = [256, 0, 16]
    lut.LUTData = (np.arange(255, -1, -1) * 257).astype(np.uint16).tobytes()
    made = dataset(ramp(np.uint8, 4), VOILUTSequence=Sequence([lut]))
    made["VOILUTSequence"].value[0]["LUTData"].VR = "OW"
    assert np.array_equal(grey(saved(made)), 255 - ramp(np.uint8, 4))


def test_monochrome1_is_inverted() -> None:
    plain, inverse = (grey(saved(dataset(ramp(), kind))) for kind in ("MONOCHROME2", "MONOCHROME1"))
    assert np.array_equal(plain, 255 - inverse)


@pytest.mark.parametrize(
    ("padding", "elements"),
    [
        ((-2000,), {"PixelPaddingValue": -2000}),
        ((-2000, -1950, -1900), {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1900}),
        ((-2000, -1950, -1900), {"PixelPaddingValue": -1900, "PixelPaddingRangeLimit": -2000}),
        ((30_000,), {"PixelPaddingValue": 30_000}),
    ],
)
def test_padding_does_not_count_in_percentiles(padding, elements) -> None:
    padded = ramp(np.int16)
    padded[:3, :3] = np.resize(padding, (3, 3))
    tissue = ~np.isin(padded, padding)
    expected = between(padded, *np.percentile(padded[tissue], (0.5, 99.5)))
    shown = grey(saved(dataset(padded, **elements)))
    assert np.abs(shown - expected)[tissue].max() <= 0.51


def test_padding_written_as_unsigned_does_not_count_in_percentiles() -> None:
    padded = ramp(np.int16)
    padded[:3, :3] = -2000
    made = dataset(padded)
    made.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    expected = grey(saved(dataset(padded, PixelPaddingValue=-2000)))
    assert np.array_equal(grey(saved(made)), expected)


HOUNSFIELD = np.arange(64).reshape(8, 8) * 100 - 1000


@pytest.mark.parametrize(
    ("window", "low", "high"),
    [
        ("lung", -1350, 150),
        ("bone", -500, 1300),
        ("brain", 0, 80),
        ("abdomen", -150, 250),
        ("mediastinum", -125, 225),
        ({"center": 0, "width": 3000}, -1500, 1500),
    ],
)
def test_a_configured_window_replaces_those_of_the_file(window, low, high) -> None:
    """In rescaled units: stored 0..6300 is -1000..5300 HU."""
    spec = InputConfig(window=window).apply(SPEC)
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [256, 0, 16], bytes(512)
    for elements in ({}, {"WindowCenter": 40, "WindowWidth": 10}, {"VOILUTSequence": [lut]}):
        made = dataset(ramp(), RescaleSlope=1, RescaleIntercept=-1000, **elements)
        if "VOILUTSequence" in elements:
            made["VOILUTSequence"].value[0]["LUTData"].VR = "OW"
        shown = grey(saved(made), spec)
        assert np.abs(shown - between(HOUNSFIELD, low, high)).max() <= 0.51


def test_three_windows_are_three_channels_also_inverted() -> None:
    spec = InputConfig(window=["lung", "mediastinum", "bone"]).apply(SPEC)
    made = dataset(ramp(), RescaleSlope=1, RescaleIntercept=-1000)
    shown = decode(saved(made), spec)
    for channel, (low, high) in enumerate([(-1350, 150), (-125, 225), (-500, 1300)]):
        assert np.abs(shown[..., channel] - between(HOUNSFIELD, low, high)).max() <= 0.51
    made.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(decode(saved(made), spec), 255 - shown)


def test_every_frame_of_an_enhanced_object_has_its_own_rescale_under_a_configured_window() -> None:
    made = dataset(np.stack([ramp(), ramp()]))
    groups = []
    for intercept in (-1000, -1200):
        rescale, group = Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, intercept
        group.PixelValueTransformationSequence = Sequence([rescale])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    one, other = frames(saved(made), InputConfig(window="lung").apply(SPEC))
    assert np.abs(one.pixels[..., 0] - between(HOUNSFIELD, -1350, 150)).max() <= 0.51
    assert np.abs(other.pixels[..., 0] - between(HOUNSFIELD - 200, -1350, 150)).max() <= 0.51


def test_colour_is_not_windowed() -> None:
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    spec = InputConfig(window="brain").apply(SPEC)
    assert np.array_equal(decode(saved(dataset(colours, "RGB")), spec), colours)


def test_planar_and_palette_colours_are_decoded() -> None:
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    planar = dataset(colours, "RGB", PlanarConfiguration=1)
    planar.PixelData = colours.transpose(2, 0, 1).tobytes()
    assert np.array_equal(decode(saved(dataset(colours, "RGB")), SPEC), colours)
    assert np.array_equal(decode(saved(planar), SPEC), colours)
    made = dataset(ramp(np.uint8, 1), "PALETTE COLOR")
    for shift, colour in enumerate(("Red", "Green", "Blue")):
        table = (np.arange(256, dtype=np.uint16) * (shift + 1) * 50).astype(np.uint16)
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(made, f"{colour}PaletteColorLookupTableData", table.tobytes())
    shown = decode(saved(made), SPEC)
    expected = np.arange(64).reshape(8, 8, 1) * np.array([50, 100, 150]) * 255 / 65535
    assert np.abs(shown - expected).max() <= 1


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_frames_equal_uncompressed_ones(syntax) -> None:
    small = np.stack([ramp(np.uint16, 10), ramp(np.uint16, 30)[::-1], ramp(np.uint16, 5)])
    stack = np.kron(small, np.ones((8, 8), np.uint16))
    plain = list(frames(saved(dataset(stack)), SPEC))
    made = dataset(stack)
    made.compress(syntax, generate_instance_uid=False)
    packed = list(frames(saved(made), SPEC))
    assert [f.number for f in packed] == [1, 2, 3]
    for one, other in zip(plain, packed, strict=True):
        assert np.array_equal(one.pixels, other.pixels)


def test_a_deflated_file_is_read_and_a_deflate_bomb_is_refused(monkeypatch) -> None:
    made = dataset(ramp())
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(grey(saved(made)), grey(saved(dataset(ramp()))))
    assert dicom.LARGEST_MEMBER_BYTES == 1 << 30
    monkeypatch.setattr(dicom, "LARGEST_MEMBER_BYTES", 1 << 20)
    made.PixelData = bytes(2 << 20)
    with pytest.raises(DecodeError, match="more than 1 GiB"):
        decode(saved(made), SPEC)


def test_frames_of_an_enhanced_object_have_their_own_windows() -> None:
    made = dataset(np.stack([ramp(), ramp()]))
    groups = []
    for center in (1000, 5000):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 1000
        group.FrameVOILUTSequence = Sequence([window])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dark, bright = (f.pixels.mean() for f in frames(saved(made), SPEC))
    assert bright < dark, "the higher window shows the same values darker"


def test_one_frame_is_chosen_by_number() -> None:
    content = saved(dataset(np.stack([ramp(), ramp()[::-1]])))
    assert count_frames(content, SPEC) == 2
    assert np.array_equal(decode(content, SPEC, 2), list(frames(content, SPEC))[1].pixels)
    for frame, reason in ((None, "has 2 frames; choose one"), (3, "no frame 3")):
        with pytest.raises(DecodeError, match=reason):
            decode(content, SPEC, frame)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": 20_000}, "20000 frames with pixel data for 1"),
        ({"NumberOfFrames": 100_000}, "too many frames: 100000"),
        ({"Rows": 60_000, "Columns": 60_000}, "too many pixels: 60000 x 60000"),
        ({"PixelData": b""}, "DICOM"),
        ({"Rows": None}, "DICOM without Rows"),
    ],
)
def test_headers_with_wrong_or_missing_sizes_are_refused(elements, reason) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(saved(dataset(ramp(), **elements)), SPEC)


def test_the_reason_for_an_object_without_pixels_names_its_class() -> None:
    with pytest.raises(DecodeError, match="without pixel data \\(Basic Text SR Storage\\)"):
        decode((SAMPLES / "reportsi.dcm").read_bytes(), SPEC)


@pytest.mark.parametrize("name", ["MR_small_implicit", "MR_small_bigendian", "MR_small_RLE"])
def test_transfer_syntaxes_of_one_image_give_the_same_pixels(name) -> None:
    plain = decode((SAMPLES / "MR_small.dcm").read_bytes(), SPEC)
    assert np.array_equal(decode((SAMPLES / f"{name}.dcm").read_bytes(), SPEC), plain)


def test_every_sample_of_pydicom_is_decoded_or_has_a_reason() -> None:
    """The samples have every transfer syntax, unusual files, and objects without images."""
    shown = {}
    for path in sorted(SAMPLES.glob("*.dcm")):
        found = list(frames(path.read_bytes(), SPEC))
        shown[path.stem] = [f.reason for f in found]
    assert len(shown) >= 70
    assert len(shown["examples_ybr_color"]) == 30
    refused = {name for name, reasons in shown.items() if any(reasons)}
    known = {"JPEG2000-embedded-sequence-delimiter", "MR_truncated"}
    for name in refused - known:
        (reason,) = shown[name]
        assert "without" in reason or "unknown image format" in reason, (name, reason)


def test_no_message_contains_a_value_of_the_header() -> None:
    """Files cut at many places, or with a patient's name written over any part."""
    content = saved(dataset(ramp()))
    secret = SECRET.encode()
    variants = [content[:cut] for cut in range(140, len(content), 37)]
    variants += [saved(dataset(ramp(), PhotometricInterpretation=SECRET[:16]))]
    for position in range(132, len(content) - 16, 11):
        variants.append(content[:position] + secret + content[position + len(secret) :])
    for variant in variants:
        for frame in frames(variant, SPEC):
            assert "SECRET" not in frame.reason
            assert "Doe" not in frame.reason
