"""Palettes, whole, in segments and supplemental, against numpy and pydicom."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from sdmad.archive.decode import decode
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec
from tests.archive.test_dicom import between, dataset

SPEC = ImageSpec((16, 16), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
PLACES = np.arange(256, dtype=np.uint8).reshape(16, 16)
TABLES = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])
COLOURS = TABLES.T[PLACES].astype(float)


def coloured(
    entries: np.ndarray | list[bytes],
    descriptor: tuple[int, int, int] = (256, 0, 16),
    places: np.ndarray = PLACES,
    kind: str = "OW",
    prefix: str = "",
    signed_descriptor: bool = False,
) -> Dataset:
    made = dataset(places, "PALETTE COLOR")
    made["PixelData"].VR = "OB" if places.itemsize == 1 else "OW"
    for colour, table in zip(("Red", "Green", "Blue"), entries, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        made.add_new(f"{name}Descriptor", "SS" if signed_descriptor else "US", list(descriptor))
        data = table if isinstance(table, bytes) else table.tobytes()
        made.add_new(f"{prefix}{name}Data", kind, data)
    return made


def written(made: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """`dataset.save_as` refuses some transfer syntaxes of data made for another."""
    made.file_meta.TransferSyntaxUID = syntax
    sink = io.BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(
        sink, made, implicit_vr=implicit, little_endian=little, enforce_file_format=True
    )
    return sink.getvalue()


@pytest.mark.parametrize(
    ("entries", "bits"),
    [
        ((TABLES * 257).astype("<u2"), 16),
        (TABLES.astype(np.uint8), 8),
        (TABLES.astype("<u2"), 8),
        (TABLES.astype("<u2"), 16),  # 8-bit entries, said to have 16
        ((TABLES * 16.06).astype("<u2"), 16),  # 12-bit entries, said to have 16
        ((TABLES * 257).astype("<u2"), 8),  # 16-bit entries, said to have 8
    ],
)
def test_palettes_of_any_layout_give_the_same_colours(entries, bits) -> None:
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        shown = decode(written(coloured(entries, (256, 0, bits)), syntax), SPEC)
        assert np.abs(shown - COLOURS).max() <= 1


def test_palettes_of_big_endian_files_have_their_bytes_swapped() -> None:
    swapped = TABLES.astype(np.uint8).view("<u2").astype(">u2")
    for entries, bits in (((TABLES * 257).astype(">u2"), 16), (swapped, 8)):
        content = written(coloured(entries, (256, 0, bits)), ExplicitVRBigEndian)
        assert np.array_equal(decode(content, SPEC), COLOURS)


@pytest.mark.parametrize(("first", "signed"), [(1000, False), (-500, True)])
def test_a_palette_begins_at_its_first_value(first, signed) -> None:
    """Values beyond its ends take the end entries; pydicom agrees."""
    places = (PLACES.astype(int) + first - 20).astype(np.int16 if signed else np.uint16)
    entries = (TABLES[:, :200] * 257).astype("<u2")
    made = coloured(entries, (200, first, 16), places, signed_descriptor=signed)
    expected = apply_color_lut(places, made) / 257
    assert np.array_equal(decode(written(made), SPEC), expected)
    if signed:
        made = coloured(entries, (200, 65536 + first, 16), places)  # as unsigned
        assert np.array_equal(decode(written(made), SPEC), expected)


def test_a_palette_of_65536_entries_says_0() -> None:
    places = (PLACES.astype(np.uint16) * 257)[::-1]
    table = np.arange(65536, dtype="<u2")
    made = coloured(np.stack([table, table[::-1], table // 2]), (0, 0, 16), places)
    expected = np.stack([places, 65535 - places, places // 2], axis=-1) / 257
    assert np.abs(decode(written(made), SPEC) - expected).max() <= 0.51


# Discrete segments of one or two entries, then a linear one (PS3.3 C.7.9.2).
SEGMENTS = [
    np.array(words, "<u2")
    for words in (
        [0, 1, 0, 1, 255, 65535],
        [0, 1, 65535, 1, 255, 0],
        [0, 2, 25_700, 51_400, 1, 254, 0],
    )
]
EXPANDED = np.stack(
    [np.arange(256), 255 - np.arange(256), np.r_[100, 200 - np.arange(255) * 200 / 254]]
)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_palette_in_segments_is_expanded(syntax) -> None:
    order = "<u2" if syntax == ExplicitVRLittleEndian else ">u2"
    made = coloured([words.astype(order) for words in SEGMENTS], prefix="Segmented")
    shown = decode(written(made, syntax), SPEC)
    assert np.abs(shown - EXPANDED.T[PLACES]).max() <= 0.51


def test_a_palette_that_is_missing_or_short_is_a_reason() -> None:
    short = (TABLES[:, :50] * 257).astype("<u2")
    damaged = [np.array([1, 0, 5], "<u2")] * 3
    for made in (
        dataset(PLACES, "PALETTE COLOR"),
        coloured(short),
        coloured(damaged, prefix="Segmented"),
    ):
        with pytest.raises(DecodeError, match="DICOM without a usable palette"):
            decode(written(made), SPEC)


@pytest.mark.parametrize("windowed", [False, True])
def test_a_supplemental_palette_colours_values_from_its_first_one_on(windowed) -> None:
    """C.7.6.19: below it pixels are grey, and coloured ones do not count in percentiles."""
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16) * 10
    stored[:4] = 4096 + np.arange(64).reshape(4, 16)
    palette = coloured((TABLES * 257).astype("<u2"), (256, 4096, 16), stored)
    palette.PhotometricInterpretation, palette.PixelPresentation = "MONOCHROME2", "MIXED"
    low, high = np.percentile(stored[4:], (0.5, 99.5))
    if windowed:
        palette.WindowCenter, palette.WindowWidth = "1000.5", "1001"
        low, high = 500, 1500
    grey = between(stored, low, high)
    expected = np.repeat(grey[..., None], 3, axis=-1)
    expected[:4] = TABLES.T[:64].reshape(4, 16, 3)
    assert np.abs(decode(written(palette), SPEC) - expected).max() <= 0.51
    palette.PixelPresentation = "MONOCHROME"
    assert (np.ptp(decode(written(palette), SPEC), axis=-1) == 0).all(), "all grey"
