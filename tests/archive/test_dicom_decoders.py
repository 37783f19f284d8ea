"""Compressed frames: exact values, and damaged data that neither hang nor end the process."""

import faulthandler
import sys

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from sdmad.archive.decode import decode, frames
from sdmad.archive.dicom import DicomFile
from sdmad.archive.dicom_decoders import decoder
from sdmad.archive.limits import DecodeError
from tests.archive.test_decode import save
from tests.archive.test_dicom import SPEC, dataset, saved

RNG = np.random.default_rng(0)
TWELVE = (np.cumsum(RNG.integers(-40, 41, (40, 48)), axis=1) + 2000).astype(np.uint16)
EIGHT = (TWELVE >> 4).astype(np.uint8)
LOSSLESS = {  # other libraries than the decoders, but for JPEG-LS
    JPEG2000Lossless: lambda values: imagecodecs.jpeg2k_encode(
        values, codecformat="j2k", reversible=True
    ),
    HTJ2KLossless: imagecodecs.htj2k_encode,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEGLosslessSV1: lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12),
}


def packed(values: np.ndarray, syntax: UID, data: bytes, **elements: object) -> bytes:
    """A DICOM file of one frame, compressed to `data`."""
    made = dataset(values, BitsStored=12, HighBit=11, **elements)
    if values.dtype == np.uint8:
        made.BitsStored, made.HighBit = 8, 7
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([data])
    made["PixelData"].VR = "OB"
    return saved(made)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_frames_have_the_values_that_were_encoded(syntax) -> None:
    file = DicomFile(packed(TWELVE, syntax, LOSSLESS[syntax](TWELVE)))
    assert np.array_equal(file._decoded(0), TWELVE)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_signed_values_keep_their_sign(syntax) -> None:
    """JPEG-LS and lossless JPEG know no sign: their samples are two's complement, here of 16 and 12
    bits, the precision that each encoder writes."""
    signed = TWELVE.astype(np.int16) - 2000
    bits = {JPEGLSLossless: 0xFFFF, JPEGLosslessSV1: 0xFFF}.get(syntax)
    stored = (signed.astype(int) & bits).astype(np.uint16) if bits else signed
    file = DicomFile(packed(signed, syntax, LOSSLESS[syntax](stored)))
    assert np.array_equal(file._decoded(0), signed)


def test_baseline_jpeg_of_greys_is_what_pillow_decodes() -> None:
    image = Image.fromarray(EIGHT)
    content = save(image, "JPEG", quality=90)
    file = DicomFile(packed(EIGHT, JPEGBaseline8Bit, content))
    reopened = DicomFile(packed(EIGHT, JPEGBaseline8Bit, content))
    reopened.decoder = get_decoder(JPEGBaseline8Bit)  # GDCM
    assert np.abs(file._decoded(0).astype(int) - reopened._decoded(0)).max() <= 1
    assert np.abs(file._decoded(0).astype(int) - EIGHT).max() < 40


def bits_of(value: int, length: int) -> str:
    return format(value, f"0{length}b") if length else ""


def lossless_jpeg(values: np.ndarray, selection: int, restart: int = 0) -> bytes:
    """Lossless JPEG of 8 bits (ITU-T T.81, annex H) with any prediction, and restart intervals of
    so many lines. Huffman codes of four bits stand for the lengths 0 to 9."""
    table = b"\xff\xc4" + (2 + 17 + 10).to_bytes(2, "big")
    table += bytes([0, *([0] * 3), 10, *([0] * 12)]) + bytes(range(10))
    rows, columns = values.shape
    frame = b"\xff\xc3\x00\x0b\x08" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    frame += b"\x01\x01\x11\x00"
    interval = b"\xff\xdd\x00\x04" + (restart * columns).to_bytes(2, "big") if restart else b""
    scan = b"\xff\xda\x00\x08\x01\x01\x00" + bytes([selection]) + b"\x00\x00"
    x, body = values.astype(int), b""
    starts = range(0, rows, restart or rows)
    for number, first in enumerate(starts):
        code = ""
        for y in range(first, min(first + (restart or rows), rows)):
            for k in range(columns):
                if y == first:
                    expected = 128 if k == 0 else x[y, k - 1]
                elif k == 0:
                    expected = x[y - 1, k]
                else:
                    a, b, c = x[y, k - 1], x[y - 1, k], x[y - 1, k - 1]
                    expected = (a, b, c, a + b - c)[selection - 1]
                apart = int(x[y, k] - expected)
                length = abs(apart).bit_length()
                low = apart if apart >= 0 else apart + (1 << length) - 1
                code += bits_of(length, 4) + bits_of(low, length)
        code += "1" * (-len(code) % 8)
        coded = bytes(int(code[k : k + 8], 2) for k in range(0, len(code), 8))
        body += coded.replace(b"\xff", b"\xff\x00")
        if first != starts[-1]:
            body += bytes([0xFF, 0xD0 + number % 8])
    return b"\xff\xd8" + table + frame + interval + scan + body + b"\xff\xd9"


@pytest.mark.parametrize("restart", [0, 8])
@pytest.mark.parametrize("selection", [1, 2, 3, 4])
def test_every_form_of_lossless_jpeg_keeps_its_values(selection, restart) -> None:
    values = EIGHT[:24]
    content = packed(values, JPEGLossless, lossless_jpeg(values, selection, restart))
    assert np.array_equal(DicomFile(content)._decoded(0), values)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_data_that_break_off_are_a_failure_and_do_not_hang(syntax) -> None:
    """CharLS does not return from some of these: this process would end after a minute."""
    data = LOSSLESS[syntax](TWELVE)
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
    try:
        for cut in range(20, len(data) - 2, len(data) // 25):
            (frame,) = frames(packed(TWELVE, syntax, data[:cut]), SPEC)
            assert frame.pixels is None, cut
            assert "cannot be decoded" in frame.reason
    finally:
        faulthandler.cancel_dump_traceback_later()


def test_a_damaged_jpeg_2000_header_is_a_failure_and_does_not_end_the_process() -> None:
    """A precision of 128 bits in SIZ (Ssiz, ISO/IEC 15444-1, A.5.1), for which GDCM aborts."""
    data = bytearray(LOSSLESS[JPEG2000Lossless](TWELVE))
    data[data.index(b"\xff\x51") + 40] = 255
    with pytest.raises(DecodeError, match="JPEG 2000"):
        decode(packed(TWELVE, JPEG2000Lossless, bytes(data)), SPEC)


def test_the_reason_names_a_transfer_syntax_that_is_not_read() -> None:
    content = packed(EIGHT, UID("1.2.840.10008.1.2.4.92"), bytes(60))
    with pytest.raises(DecodeError, match=r"transfer syntax that is not read .JPEG 2000 Part 2"):
        decode(content, SPEC)


def test_the_decoders_of_pydicom_stay_as_they_are() -> None:
    decoder(JPEGLSLossless)
    assert "imagecodecs" not in get_decoder(JPEGLSLossless).available_plugins
