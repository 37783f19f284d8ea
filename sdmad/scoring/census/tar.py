"""Walk a tar by a parser of its headers, compressed or not.

    for member in walk(stream):
        member.name, member.kind, member.content

Written for verification: it shares no code with `sdmad.archive.tars` and does not use `tarfile`.
Formats: POSIX.1-2001 (pax) and POSIX.1-1988 (ustar), GNU and old tars.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

import pyarrow as pa

BLOCK = 512
READ = 256 << 10
LARGEST_EXTENSION = 1 << 20
MOST_MEMORY = 192 << 20

Kind = Literal["file", "link", "folder", "special"]
# POSIX: types that are not known are files. L, K, x, g and X describe the member that follows.
_KINDS: dict[bytes, Kind] = {
    b"1": "link",
    b"2": "link",
    b"3": "special",
    b"4": "special",
    b"5": "folder",
    b"6": "special",
    **dict.fromkeys((b"A", b"D", b"E", b"I", b"N", b"V"), "special"),
}


class DamagedTarError(Exception):
    """The tar cannot be read to its end."""


@dataclass(frozen=True)
class TarMember:
    """A member; `content` opens what it holds, for as long as the next member is not asked for."""

    name: str
    kind: Kind
    size: int
    content: Callable[[], IO[bytes]]


def walk(stream: IO[bytes]) -> Iterator[TarMember]:
    """Every member in stored order, also of further tars that follow the end of the first.

    Raises `DamagedTarError`, or what decompressors raise, where the tar breaks off.
    """
    source = unpacked(stream)
    extended: dict[str, str] = {}
    everywhere: dict[str, str] = {}
    ended = False
    while True:
        block = source.read(BLOCK)
        if ended and not block.strip(b"\0") and len(block) < BLOCK:
            return
        if len(block) < BLOCK:
            raise DamagedTarError("a header ends early" if block else "the end is missing")
        if not block.strip(b"\0"):
            ended = True
            continue
        ended = False
        _check(block)
        kind, size = block[156:157], _number(block[124:136])
        if kind in (b"L", b"K", b"x", b"g", b"X"):
            content = _padded(source, size)
            if kind in (b"L", b"K"):
                key = "path" if kind == b"L" else "linkpath"
                extended[key] = _text(content.split(b"\0", 1)[0])
            else:
                (everywhere if kind == b"g" else extended).update(_records(content))
            continue
        fields, extended = everywhere | extended, {}
        if kind == b"S":
            more = block[482]
            while more:
                more = _exactly(source, BLOCK)[504]
        if "size" in fields:
            size = int(fields["size"])
        if size < 0:
            raise DamagedTarError("a member of negative size")
        name = fields.get("GNU.sparse.name") or fields.get("path") or _name(block)
        what = _KINDS.get(kind, "file")
        if kind == b"\0" and _name(block).endswith("/"):
            what = "folder"  # As tars of before POSIX have it.
        # Links, folders and devices have no content, whatever their size says.
        length = size if kind not in (b"1", b"2", b"3", b"4", b"5", b"6") else 0
        sparse = kind == b"S" or any(field.startswith("GNU.sparse.") for field in fields)
        window = _Window(source, length)
        yield TarMember(
            name.rstrip("/") if what == "folder" else name,
            what,
            length,
            (lambda: io.BytesIO(b"")) if sparse else window.open,
        )
        window.skip()


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """The stream itself, or what is in it if its first bytes are those of a compressed file."""
    start = stream.read(6)
    stream.seek(0)
    new: Callable[[], Any] | None = None
    if start.startswith(b"\x1f\x8b"):
        new = _Gzip
    elif start.startswith(b"BZh"):
        new = bz2.BZ2Decompressor
    elif start.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        new = _xz
    elif start.startswith(b"\x28\xb5\x2f\xfd") or start[1:4] == b"\x2a\x4d\x18":
        packed = pa.PythonFile(_NotClosed(stream), mode="r")
        return io.BufferedReader(_Arrow(pa.CompressedInputStream(packed, "zstd")), READ)
    if new is None:
        return stream
    return io.BufferedReader(_Unpacked(stream, new), READ)


def _check(block: bytes) -> None:
    """Raise `DamagedTarError` unless the checksum is right; some programs sum signed bytes."""
    told = _number(block[148:156])
    others = block[:148] + b" " * 8 + block[156:]
    if told != sum(others) and told != sum(b - 256 if b > 127 else b for b in others):
        raise DamagedTarError("a header is damaged")


def _number(field: bytes) -> int:
    if field[:1] in (b"\x80", b"\xff"):
        value = int.from_bytes(field[1:], "big")
        return value - (1 << (8 * (len(field) - 1))) if field[:1] == b"\xff" else value
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise DamagedTarError("a header is damaged") from None


def _name(block: bytes) -> str:
    name, prefix = (block[a:b].split(b"\0", 1)[0] for a, b in ((0, 100), (345, 500)))
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _text(name)


def _records(content: bytes) -> dict[str, str]:
    """Records `length keyword=value\\n` of a pax header."""
    found, position = {}, 0
    while position < len(content) and content[position : position + 1] != b"\0":
        digits, space, _ = content[position : position + 24].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[position + len(digits) + 1 : position + length]
        keyword, mark, value = record.partition(b"=")
        if not (space and mark and record.endswith(b"\n")):
            raise DamagedTarError("a pax header is damaged")
        text = _text(value[:-1])
        found[_text(keyword)] = text.rstrip("/") if keyword == b"path" else text
        position += length
    return found


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _padded(source: IO[bytes], size: int) -> bytes:
    if not 0 <= size <= LARGEST_EXTENSION:
        raise DamagedTarError("an extended header is too large")
    return _exactly(source, size + -size % BLOCK)[:size]


def _exactly(source: IO[bytes], size: int) -> bytes:
    content = source.read(size)
    if len(content) < size:
        raise DamagedTarError("the tar ends early")
    return content


class _Window(io.RawIOBase):
    """The content of the member that the tar stands at; what was read of it is kept, so that also
    compressed tars can be read here and there."""

    def __init__(self, source: IO[bytes], size: int) -> None:
        self.source, self.size, self.position = source, size, 0
        self.begin = source.tell() if source.seekable() else None
        self.kept = bytearray()

    def open(self) -> IO[bytes]:
        return io.BufferedReader(self, 4096)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self.size - self.position))
        if self.begin is not None:
            self.source.seek(self.begin + self.position)
            content = self.source.read(wanted)
        else:
            stop = self.position + wanted
            self.kept += self.source.read(max(0, stop - len(self.kept)))
            content = bytes(self.kept[self.position : stop])
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def skip(self) -> None:
        """Go to the header behind the member."""
        padded = self.size + -self.size % BLOCK
        if self.begin is not None:
            if padded:
                # The last byte must be there: seeking alone would pass the end of the file.
                self.source.seek(self.begin + self.size - 1)
                _exactly(self.source, 1 + padded - self.size)
            return
        left = padded - len(self.kept)
        while left:
            content = self.source.read(min(left, READ))
            if not content:
                raise DamagedTarError("the tar ends early")
            left -= len(content)


class _Unpacked(io.RawIOBase):
    """Compressed streams one after the other, with zero bytes between them or behind them."""

    def __init__(self, stream: IO[bytes], new: Callable[[], Any]) -> None:
        self.stream, self.new = stream, new
        self.engine: Any = new()
        self.left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self.engine.eof:
                behind = self.engine.unused_data
                while not (behind := behind.lstrip(b"\0")):
                    behind = self.stream.read(READ)
                    if not behind:
                        return 0
                self.engine, self.left = self.new(), behind
            given, self.left = self.left, b""
            if not given and self.engine.needs_input:
                given = self.stream.read(READ)
                if not given:
                    raise EOFError("the compressed file ends early")
            content = self.engine.decompress(given, len(buffer))
            if content:
                buffer[: len(content)] = content
                return len(content)


class _Gzip:
    """zlib with the interface of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        self.engine, self.tail = zlib.decompressobj(16 + zlib.MAX_WBITS), b""

    @property
    def eof(self) -> bool:
        return self.engine.eof

    @property
    def needs_input(self) -> bool:
        return not self.tail

    @property
    def unused_data(self) -> bytes:
        return self.engine.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        content = self.engine.decompress(self.tail + data, most)
        self.tail = self.engine.unconsumed_tail
        return content


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=MOST_MEMORY)


class _Arrow(io.RawIOBase):
    def __init__(self, source: pa.CompressedInputStream) -> None:
        self.source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.source.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _NotClosed:
    """What Arrow needs of a stream, which it would close."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self.read = stream.read

    def close(self) -> None:
        pass
