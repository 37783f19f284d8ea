"""Checksums of the pixel data of PNG files.

Pillow compares those of other chunks only, and stops to unpack when the picture is complete. So a
file whose rest is zero, as an interrupted copy leaves it, would be a picture of wrong pixels.
"""

import struct
import zlib

from sdmad.archive.limits import DecodeError

_SIGNATURE = 8


def check(content: bytes) -> None:
    """Raise `DecodeError` if a chunk of pixel data is not the one that was written.

    Chunk layout and checksum: PNG specification, third edition, 5.3 and 5.5. A file that breaks off
    between chunks is left to the decoder.
    """
    position, view = _SIGNATURE, memoryview(content)
    while position + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + size
        if kind == b"IEND" or end + 4 > len(content):
            return
        if kind == b"IDAT":
            (told,) = struct.unpack_from(">I", content, end)
            if zlib.crc32(view[position + 4 : end]) != told:
                raise DecodeError("damaged image: a checksum of the pixel data is wrong")
        position = end + 4
