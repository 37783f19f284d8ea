"""The elements that describe pixels: what is missing or wrong is named."""

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML

from sdmad.archive.decode import decode, frames
from sdmad.archive.limits import DecodeError
from tests.archive.test_dicom import SPEC, dataset, grey, ramp, saved

COLOURS = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)


def changed(name: str, value: object, colour: bool = False) -> bytes:
    """An image whose element `name` has `value`; "absent" removes it."""
    made = dataset(COLOURS, "RGB") if colour else dataset(ramp())
    made["PixelData"].VR = "OW"
    if value == "absent":
        delattr(made, name)
    else:
        setattr(made, name, value)
    return saved(made)


REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")


@pytest.mark.parametrize("name", [*REQUIRED, "PhotometricInterpretation"])
@pytest.mark.parametrize("value", ["absent", None])
def test_the_reason_names_the_element_that_is_missing(name, value) -> None:
    (frame,) = frames(changed(name, value), SPEC)
    assert frame.reason == f"DICOM without {name}"


@pytest.mark.parametrize("name", REQUIRED)
def test_the_reason_names_the_element_that_is_unusable(name) -> None:
    for value in ([1, 2], 7 if name == "PixelRepresentation" else 0):
        with pytest.raises(DecodeError, match=f"DICOM with unusable {name}"):
            decode(changed(name, value), SPEC)


@pytest.mark.parametrize("value", ["absent", None, 0, [1, 1]])
def test_where_only_one_value_is_possible_it_stands_in_for_an_absent_one(value) -> None:
    for name in ("SamplesPerPixel", "HighBit"):
        assert np.array_equal(grey(changed(name, value)), grey(saved(dataset(ramp()))))
    assert np.array_equal(decode(changed("SamplesPerPixel", value, colour=True), SPEC), COLOURS)
    # Colours are unsigned.
    assert np.array_equal(decode(changed("PixelRepresentation", value, colour=True), SPEC), COLOURS)
    assert np.array_equal(decode(changed("PixelRepresentation", 1, colour=True), SPEC), COLOURS)


@pytest.mark.parametrize(
    ("name", "value", "colour", "reason"),
    [
        (
            "SamplesPerPixel",
            3,
            False,
            "Interpretation MONOCHROME2 and SamplesPerPixel 3",
        ),
        ("SamplesPerPixel", 1, True, "PhotometricInterpretation RGB and SamplesPerPixel 1"),
        ("PlanarConfiguration", "absent", True, "without PlanarConfiguration"),
        ("PlanarConfiguration", 2, True, "unusable PlanarConfiguration"),
        ("PhotometricInterpretation", "HSV", True, "PhotometricInterpretation HSV, which is not"),
        ("PhotometricInterpretation", "CMYK", True, "PhotometricInterpretation CMYK, which is"),
        ("PhotometricInterpretation", "DOE^JANE", False, "unknown PhotometricInterpretation$"),
        ("BitsAllocated", 24, False, "BitsAllocated 24, which is not read"),
        ("BitsStored", 20, False, "BitsAllocated 16 and BitsStored 20"),
        ("FloatPixelData", bytes(256), False, "both integer and float pixel data"),
    ],
)
def test_what_contradicts_itself_or_is_not_read_has_a_reason(name, value, colour, reason) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(changed(name, value, colour), SPEC)


@pytest.mark.parametrize("value", [None, "", 0, "-3", "x", "1A"])
def test_without_a_number_of_frames_there_is_one_unless_the_data_hold_more(value) -> None:
    made = dataset(ramp())
    made.add_new("NumberOfFrames", "LO", str(value) if value is not None else None)
    assert np.array_equal(grey(saved(made)), grey(saved(dataset(ramp()))))
    made.PixelData = made.PixelData * 3
    with pytest.raises(DecodeError, match="usable NumberOfFrames and with pixel data for 3"):
        decode(saved(made), SPEC)


def test_bytes_behind_the_pixels_do_not_matter() -> None:
    made = dataset(ramp())
    made.PixelData += bytes(6)
    assert np.array_equal(grey(saved(made)), grey(saved(dataset(ramp()))))


def test_a_transfer_syntax_that_is_not_read_is_named() -> None:
    made = dataset(ramp())
    made.file_meta.TransferSyntaxUID = MPEG2MPML
    made.PixelData = encapsulate([bytes(100)])
    made["PixelData"].VR = "OB"
    with pytest.raises(DecodeError, match="MPEG2 Main Profile"):
        decode(saved(made), SPEC)
    made.file_meta.TransferSyntaxUID = "1.2.3.4"
    with pytest.raises(DecodeError, match=r"transfer syntax that is not read \(unknown\)"):
        decode(saved(made, implicit_vr=False, little_endian=True), SPEC)
