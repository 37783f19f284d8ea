"""What a JPEG within another file holds, by its own headers."""

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


def headers(data: bytes) -> Jpeg | None:
    """The headers of a JPEG; None if these are not found."""
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
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                return None
            ycbcr = _holds_ycbcr(body, jfif, adobe) if body[5] == 3 else None
            return Jpeg(marker, body[0], body[5], ycbcr)
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
