"""Damaged PNG files, which Pillow decodes to wrong pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sdmad.archive.decode import frames
from sdmad.archive.preprocess import ImageSpec

SPEC = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3)
DAMAGED = "damaged image: a checksum of the pixel data is wrong"


@pytest.fixture(scope="module")
def picture() -> bytes:
    """Smooth, so that it is compressed well, in one chunk of pixel data."""
    values = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 8, (64, 64), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(values + noise).save(sink, "PNG")
    return sink.getvalue()


def reasons(content: bytes) -> list[str]:
    return [frame.reason for frame in frames(content, SPEC)]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_file_whose_rest_is_zero_has_a_reason(picture, kept) -> None:
    """As an interrupted copy leaves it; with whatever Pillow makes of the zeros."""
    size = int(kept * len(picture))
    [reason] = reasons(picture[:size].ljust(len(picture), b"\0"))
    assert reason.startswith("damaged image: ")
    [reason] = reasons(picture[:size].ljust(2 * len(picture), b"\0"))
    assert reason.startswith("damaged image: ")


def test_every_bit_of_the_pixel_data_counts(picture) -> None:
    start = picture.index(b"IDAT") + 4
    for at in range(start, len(picture) - 16, 97):
        changed = bytearray(picture)
        changed[at] ^= 0x10
        assert reasons(bytes(changed)) == [DAMAGED]


def test_whole_files_are_decoded_in_one_chunk_or_many(picture) -> None:
    assert reasons(picture) == [""]
    start = picture.index(b"IDAT") - 4
    (size,) = struct.unpack_from(">I", picture, start)
    data, end = picture[start + 8 : start + 8 + size], start + 12 + size
    chunks = [b"IDAT" + data[k : k + 100] for k in range(0, len(data), 100)]
    several = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )
    assert reasons(picture[:start] + several + picture[end:]) == [""]
    assert reasons(picture + b"what follows the end") == [""]
