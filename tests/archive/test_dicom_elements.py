"""Single elements: what cannot be used counts as absent."""

import io
import struct

import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from sdmad.archive.dicom_elements import items, number, numbers, text, whole


def read(name: str, kind: str, value: bytes, order: str = "<", implicit: bool = False) -> Dataset:
    """A dataset of one element of an even number of bytes."""
    tag = struct.pack(f"{order}HH", *divmod(tag_for_keyword(name), 65536))
    size = struct.pack(f"{order}I" if implicit or kind in ("SQ", "UN") else f"{order}H", len(value))
    head = b"" if implicit else kind.encode() + (b"\0\0" if len(size) == 4 else b"")
    file = io.BytesIO(tag + head + size + value)
    return read_dataset(file, implicit, order == "<")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        *(("12.5", [12.5]), (" 40 ", [40]), ("-1.5e3", [-1500]), ("+.5", [0.5]), ("7.", [7])),
        *(("", []), ("    ", []), ("1\\2\\3", [1, 2, 3]), ("\\40", [None, 40])),
        *(("2,04", [None]), ("nan", [None]), ("inf", [None]), ("1e999", [None]), ("1_0", [None])),
        *(("0x10", [None]), ("--1", [None]), ("abc\\40", [None, 40]), ("1 2", [None])),
    ],
)
def test_a_decimal_string_is_read_value_by_value(written, found) -> None:
    value = written.encode().ljust(len(written) + len(written) % 2)
    for kind in ("DS", "LO", "UN"):
        assert numbers(read("WindowCenter", kind, value), "WindowCenter") == found
    assert numbers(read("WindowCenter", "", value, implicit=True), "WindowCenter") == found


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("name", "kind", "code", "value"),
    [
        ("Rows", "US", "H", 300),
        ("PixelPaddingValue", "SS", "h", -2000),
        ("FloatPixelPaddingValue", "FL", "f", -0.5),
        ("DoubleFloatPixelPaddingValue", "FD", "d", 1e-300),
    ],
)
def test_binary_numbers_have_the_byte_order_of_the_file(name, kind, code, value, order) -> None:
    packed = struct.pack(order + code, value)
    assert number(read(name, kind, packed, order), name) == value
    if order == "<":  # an implicit file does not say whether padding is signed
        expected = 63_536 if kind == "SS" else value
        assert number(read(name, "", packed, implicit=True), name) == expected


def test_a_number_of_several_values_or_with_a_fraction_is_no_whole_one() -> None:
    assert number(read("Rows", "US", struct.pack("<HH", 1, 2)), "Rows") is None
    assert whole(read("NumberOfFrames", "IS", b"2.5 "), "NumberOfFrames") is None
    assert whole(read("NumberOfFrames", "IS", b"2.0 "), "NumberOfFrames") == 2
    assert number(Dataset(), "Rows") is None


def test_codes_are_read_in_capitals_and_sequences_as_far_as_they_go() -> None:
    for value, found in ((b"LINEAR", "LINEAR"), (b" sigmoid", "SIGMOID"), (b"  ", ""), (b"", "")):
        assert text(read("VOILUTFunction", "CS", value), "VOILUTFunction") == found
    assert text(Dataset(), "VOILUTFunction") == ""
    one = b"\xfe\xff\x00\xe0" + bytes(4)
    for value, count in ((b"", 0), (one, 1), (one * 2, 2)):
        assert len(items(read("VOILUTSequence", "SQ", value), "VOILUTSequence")) == count
    assert items(read("VOILUTSequence", "LO", b"text"), "VOILUTSequence") == []
