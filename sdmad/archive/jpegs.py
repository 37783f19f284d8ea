"""What a JPEG within another file holds, by its own headers."""

from collections.abc import Iterator
from dataclasses import dataclass

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Jpeg:
    """Start of frame (0xC0 is baseline), bits of a sample, components, and whether three of them
    are YCbCr: None where the headers leave it open."""

    kind: int
    precision: int
    components: int
    ycbcr: bool | None


def is_whole(data: bytes) -> bool:
    """Whether data end with the end of image marker, apart from padding."""
    return data[-4096:].rstrip(b"\0").endswith(b"\xff\xd9")


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment, up to the first scan or to what is not JPEG."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill bytes, no length
            place += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        yield marker, data[place + 4 : place + 2 + size]
        if marker == 0xDA:
            return
        place += 2 + size


def headers(data: bytes) -> Jpeg | None:
    """The headers of a JPEG; None if these are not found."""
    jfif, adobe = False, None
    for marker, body in _segments(data):
        if marker == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker in _START_OF_FRAME:
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                return None
            ycbcr = _holds_ycbcr(body, jfif, adobe) if body[5] == 3 else None
            return Jpeg(marker, body[0], body[5], ycbcr)
    return None


def _holds_ycbcr(frame: bytes, jfif: bool, adobe: int | None) -> bool | None:
    """In the order of libjpeg: JFIF, Adobe's marker, names of the components; then subsampling."""
    names, sampling = frame[6:15:3], frame[7:15:3]
    if jfif:
        return True
    if adobe is not None:
        return adobe != 0
    if names in (b"RGB", b"rgb"):
        return False
    return True if sampling[0] > sampling[1] else None
