"""Which colours a JPEG within another file holds, by its own headers."""

from dataclasses import dataclass

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class ColourJpeg:
    """What the headers of a JPEG say: `ycbcr` is None where they leave it open."""

    kind: int
    precision: int
    ycbcr: bool | None


def colour_jpeg(data: bytes) -> ColourJpeg | None:
    """The headers of a JPEG of three components; None if these are not found."""
    place, jfif, adobe = 2, False, None
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill bytes, no length
            place += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + size]
        if marker == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker in _START_OF_FRAME:
            if len(body) < 15 or body[5] != 3:
                return None
            return ColourJpeg(marker, body[0], _holds_ycbcr(body, jfif, adobe))
        elif marker == 0xDA:
            return None
        place += 2 + size
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
