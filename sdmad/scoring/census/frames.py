"""Count the images in a file from its structure, without decoding any.

    count(stream, "axial")  # frozenset({3}) for a TIFF of three pages

Written for verification: it shares no code with `sdmad.archive.decode`, and only DICOM headers are
parsed by a library. None stands for files whose images cannot be counted so: damaged ones, deflated
DICOM, and formats that are not known here.
"""

import struct
from collections.abc import Iterator
from typing import IO

import pydicom

from sdmad.archive.quiet import quiet
from sdmad.scoring.census import volumes

# The possible numbers of images in a file; None if it is not known.
Count = frozenset[int] | None

ONE = frozenset((1,))
_STARTS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"),
    *(b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    *(b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
)
MOST_BLOCKS = 1 << 20
MOST_SIZES = 64
SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101
OLD_SUBFILE_TYPE, OLD_REDUCED = 255, 2
WIDTH, LENGTH = 256, 257
# Types of pictures in a multi-picture file (CIPA DC-007).
PREVIEWS, VIEWS = (0x10001, 0x10002), (0x20001, 0x20002, 0x20003)
DEFLATED = b"1.2.840.10008.1.2.1.99"


class UncountableError(Exception):
    """The file is damaged, or not as its first bytes promise."""


def begins_like_image(start: bytes) -> bool:
    """Whether the first 132 bytes or more of a file are those of a common image format."""
    return (
        start.startswith(_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"heic", b"mif1"))
        or (start[:2] == b"BM" and start[6:10] == b"\x00" * 4)
        or start[128:132] == b"DICM"
    )


def count(stream: IO[bytes], slice_axis: str) -> Count:
    """The number of images in a seekable stream that begins with the file.

    `slice_axis` is the one of the detector's input (`axial`, `coronal`, `sagittal`).
    """
    try:
        start = stream.read(132)
        stream.seek(0)
        if start[128:132] == b"DICM" or (
            start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"
        ):
            return _dicom(stream)
        if start.startswith(b"\x89PNG"):
            return _png(stream)
        if start.startswith(b"\xff\xd8\xff"):
            return _jpeg(stream)
        if start.startswith((b"GIF87a", b"GIF89a")):
            return _gif(stream)
        if start[:2] in (b"II", b"MM") and start[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
            return _tiff(stream)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return _webp(stream)
        if start[4:8] == b"ftyp":
            return _avif(stream)
        volume = volumes.head(stream)
        if volumes.is_volume(volume):
            return volumes.count_slices(volume, slice_axis)
    except (UncountableError, struct.error, ValueError, OverflowError, RecursionError):
        return None
    return None


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise UncountableError("the file ends early")
    return content


def _png(stream: IO[bytes]) -> Count:
    """The frames of an animation (PNG, third edition, 11.3.6) are announced in front of the pixels.

    If the file has fewer, one more image stands for those that are missing. Without any frame, or
    with two announcements, the file is a still picture.
    """
    stream.seek(8)
    announced: list[int] = []
    frames, pixels = 0, False
    for _ in range(MOST_BLOCKS):
        header = stream.read(8)
        if len(header) < 8:
            if not pixels:
                raise UncountableError("the file ends before its pixels")
            break
        size, kind = struct.unpack(">I4s", header)
        pixels |= kind == b"IDAT"
        if pixels and len(announced) != 1:
            return ONE
        frames += kind == b"fcTL"
        if kind == b"acTL" and not pixels:
            announced.append(struct.unpack(">I", _exactly(stream, 8)[:4])[0])
            size -= 8
        stream.seek(size + 4, 1)
    if not frames or not announced or not 1 <= announced[0] <= 1 << 31:
        return ONE
    return frozenset((min(announced[0], frames + 1),))


def _jpeg(stream: IO[bytes]) -> Count:
    """The index of a multi-picture file (CIPA DC-007) is in a segment APP2."""
    stream.seek(2)
    with_gain_map = False
    for _ in range(MOST_BLOCKS):
        mark = _exactly(stream, 2)
        while mark == b"\xff\xff":
            mark = b"\xff" + _exactly(stream, 1)
        if mark[0] != 0xFF:
            raise UncountableError("no JPEG marker")
        if mark[1] == 0x01 or 0xD0 <= mark[1] <= 0xD8:
            continue
        if mark[1] in (0xDA, 0xD9):
            return ONE
        size = struct.unpack(">H", _exactly(stream, 2))[0] - 2
        if mark[1] not in (0xE1, 0xE2):
            stream.seek(size, 1)
            continue
        content = _exactly(stream, size)
        with_gain_map |= b"hdrgm:Version" in content
        if mark[1] == 0xE2 and content.startswith(b"MPF\0"):
            views = _views(content[4:])
            return views | ONE if with_gain_map else views
    raise UncountableError("too many segments")


def _views(content: bytes) -> frozenset[int]:
    """How many images a multi-picture file may have: each of no known type may be a depth map, or
    gone. Previews are none."""
    order = "<" if content[:2] == b"II" else ">"
    (position,) = struct.unpack_from(f"{order}I", content, 4)
    (entries,) = struct.unpack_from(f"{order}H", content, position)
    pictures, first = 1, 0
    for k in range(entries):
        tag, _, _, value = struct.unpack_from(f"{order}HHII", content, position + 2 + 12 * k)
        if tag == 0xB001:
            pictures = max(1, value)
        if tag == 0xB002:
            first = value
    kinds = [
        struct.unpack_from(f"{order}I", content, first + 16 * k)[0] & 0xFFFFFF
        for k in range(1, pictures)
    ]
    views, previews = (sum(kind in some for kind in kinds) for some in (VIEWS, PREVIEWS))
    return frozenset(range(1 + views, 2 + len(kinds) - previews))


def _gif(stream: IO[bytes]) -> Count:
    flags = _exactly(stream, 13)[10]
    if flags & 0x80:
        stream.seek(3 << (1 + (flags & 7)), 1)
    frames = 0
    for _ in range(MOST_BLOCKS):
        kind = stream.read(1)
        if kind == b"\x2c":
            frames += 1
            flags = _exactly(stream, 9)[8]
            if flags & 0x80:
                stream.seek(3 << (1 + (flags & 7)), 1)
            _exactly(stream, 1)
        elif kind == b"\x21":
            _exactly(stream, 1)
        elif kind == b"\x3b":
            return frozenset((frames,)) if frames else None
        else:
            return None
        while size := _exactly(stream, 1)[0]:
            stream.seek(size, 1)
    return None


def _tiff(stream: IO[bytes]) -> Count:
    """Pages, without the reduced copies and masks beside them."""
    start = _exactly(stream, 8)
    order = "<" if start[:2] == b"II" else ">"
    (version,) = struct.unpack(f"{order}H", start[2:4])
    big = version == 43
    number, entry, offset = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    entry_size = struct.calcsize(f"={entry}")
    if big:
        (position,) = struct.unpack(f"{order}Q", _exactly(stream, 8))
    else:
        (position,) = struct.unpack(f"{order}I", start[4:])
    seen: set[int] = set()
    sides: set[tuple[int, int]] = set()
    pages = images = copies = 0
    while position:
        if position in seen:
            return None
        seen.add(position)
        stream.seek(position)
        (entries,) = struct.unpack(
            f"{order}{number}", _exactly(stream, struct.calcsize(f"={number}"))
        )
        if entries > 1 << 16:
            return None
        content = _exactly(stream, entries * entry_size)
        tags = {}
        for k in range(entries):
            tag, size = struct.unpack_from(f"{order}HH", content, k * entry_size)
            at = (k + 1) * entry_size - (8 if big else 4)
            tags[tag] = struct.unpack_from(f"{order}{'H' if size == 3 else 'I'}", content, at)[0]
        pages += 1
        reduced = tags.get(SUBFILE_TYPE, 0) & REDUCED_OR_MASK
        if not reduced and tags.get(OLD_SUBFILE_TYPE) != OLD_REDUCED:
            images += 1
            page = tags.get(WIDTH, 0), tags.get(LENGTH, 0)
            # Reduced copies may not say so: only their pixels tell.
            copies += any(_is_fraction(page, other) for other in sides)
            if len(sides) < MOST_SIZES:
                sides.add(page)
        (position,) = struct.unpack(
            f"{order}{offset}", _exactly(stream, struct.calcsize(f"={offset}"))
        )
    if not pages:
        return None
    return frozenset(range(max(1, images - copies), max(1, images) + 1))


def _is_fraction(page: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether the sides of a page are a half, a third and so on of another's, give or take one of
    its pixels."""
    ratio = round(other[0] / page[0]) if page[0] else 0
    apart = (abs(long - ratio * short) for long, short in zip(other, page, strict=True))
    return ratio >= 2 and max(apart) <= ratio


def _webp(stream: IO[bytes]) -> Count:
    stream.seek(12)
    kind, size = struct.unpack("<4sI", _exactly(stream, 8))
    if kind != b"VP8X" or not _exactly(stream, 1)[0] & 0b10:
        return ONE
    stream.seek(20 + size + size % 2)
    frames = 0
    for _ in range(MOST_BLOCKS):
        start = stream.read(8)
        if len(start) < 8:
            return frozenset((frames,)) if frames else None
        kind, size = struct.unpack("<4sI", start)
        frames += kind == b"ANMF"
        stream.seek(size + size % 2, 1)
    return None


def _avif(stream: IO[bytes]) -> Count:
    """A sequence has a track of pictures (ISO/IEC 14496-12), whose samples are counted."""
    (size,) = struct.unpack(">I", _exactly(stream, 4))
    brands = _exactly(stream, size - 4) if 16 <= size <= 4096 else b""
    if brands[4:8] not in (b"avif", b"avis"):
        return None
    if b"avis" not in brands[4:]:
        return ONE
    handlers: dict[int, bytes] = {}
    samples: dict[int, int] = {}
    for kind, begin, track in _leaves(stream, 0, None, 0):
        if kind in (b"hdlr", b"stsz"):
            stream.seek(begin + 8)
            value = _exactly(stream, 4)
            if kind == b"hdlr":
                handlers[track] = value
            else:
                (samples[track],) = struct.unpack(">I", value)
    counts = {n for track, n in samples.items() if n and handlers.get(track) == b"pict"}
    if brands[4:8] == b"avif":
        counts.add(1)  # A single picture with a sequence beside it.
    return frozenset(counts) if counts else None


def _leaves(
    stream: IO[bytes], start: int, stop: int | None, track: int
) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and track (the position of its box) of each box that contains no others."""
    for kind, begin, end in _boxes(stream, start, stop):
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            yield from _leaves(stream, begin, end, begin if kind == b"trak" else track)
        else:
            yield kind, begin, track


def _boxes(
    stream: IO[bytes], start: int, stop: int | None
) -> Iterator[tuple[bytes, int, int | None]]:
    """Kind, begin and end of each box between two positions."""
    for _ in range(MOST_BLOCKS):
        stream.seek(start)
        header = stream.read(8)
        if len(header) < 8 or (stop is not None and start >= stop):
            return
        size, kind = struct.unpack(">I4s", header)
        begin = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", _exactly(stream, 8))
            begin += 8
        end = None if size == 0 else start + size
        yield kind, begin, end
        if end is None or end <= start:
            return
        start = end


def _dicom(stream: IO[bytes]) -> Count:
    start = stream.read(2048)
    if DEFLATED in start:
        return None  # pydicom would unpack it whole, whatever its size.
    stream.seek(0)
    try:
        with quiet():
            header = pydicom.dcmread(
                stream, stop_before_pixels=True, force=True, specific_tags=["NumberOfFrames"]
            )
            frames = int(header.get("NumberOfFrames") or 1)
    except Exception:
        # pydicom raises almost anything on damaged headers.
        return None
    return frozenset((frames,)) if frames >= 1 else None
