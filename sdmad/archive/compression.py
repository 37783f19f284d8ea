"""Streams of compressed tars, unpacked: gzip, bzip2, xz and Zstandard.

The first bytes decide, not the name. A file of several compressed streams, as `cat a.gz b.gz`,
bgzip, pigz and pzstd write them, is read to its end.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import IO, Any, cast

import pyarrow as pa

from sdmad.archive.limits import LARGEST_WINDOW_BYTES

BLOCK = 256 << 10
# Arrow drops what it has unpacked of a block when the next part is damaged.
ZSTD_BLOCK = 16 << 10
GZIP, XZ, LZMA = b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"\x5d\x00\x00\x80"
ZSTD, ZSTD_SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
BZIP2_BLOCK, BZIP2_END = b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"


def unpacked(stream: IO[bytes]) -> tuple[IO[bytes], bool]:
    """A stream from its start, unpacked, and whether it was compressed.

    Reading raises an exception of `limits.DAMAGE` where the compressed data is damaged or ends
    early, after the data before, or if unpacking needs more memory than `LARGEST_WINDOW_BYTES`.
    """
    stream.seek(0)
    start = stream.read(10)
    stream.seek(0)
    raw: io.RawIOBase | None = None
    if start.startswith(GZIP):
        raw = _Concatenated(stream, _Gzip)
    elif start.startswith(b"BZh") and start[4:] in (BZIP2_BLOCK, BZIP2_END):
        raw = _Concatenated(stream, bz2.BZ2Decompressor)
    elif start.startswith((XZ, LZMA)):
        raw = _Concatenated(stream, _xz)
    elif start.startswith(ZSTD) or start[1:4] == ZSTD_SKIPPABLE:
        raw = _Zstandard(stream)
    return (cast(IO[bytes], raw), True) if raw else (stream, False)


class _Gzip:
    """zlib's decompressor for one member of a gzip file, with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, content: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + content, max_length)


def _xz() -> lzma.LZMADecompressor:
    # The dictionary, and room for the tables of the decoder.
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=LARGEST_WINDOW_BYTES + (1 << 20))


class _Concatenated(io.RawIOBase):
    """One compressed stream after the other, with zero bytes between them or at the end.

    `bz2.BZ2File` and `lzma.LZMAFile` stop at such padding, and all file classes of the standard
    library drop what they have unpacked of a block when the next part is damaged.
    """

    def __init__(self, stream: IO[bytes], new: Callable[[], Any]) -> None:
        self.stream, self.new = stream, new
        self.decompressor: Any = new()
        self.left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self.decompressor.eof and not self._next_stream():
                return 0
            given = b""
            if self.decompressor.needs_input:
                given, self.left = self.left or self.stream.read(BLOCK), b""
                if not given:
                    raise EOFError("the compressed data ends early")
            content = self.decompressor.decompress(given, len(buffer))
            if content:
                buffer[: len(content)] = content
                return len(content)

    def _next_stream(self) -> bool:
        left = self.decompressor.unused_data
        while not (left := left.lstrip(b"\x00")):
            left = self.stream.read(BLOCK)
            if not left:
                return False
        self.decompressor, self.left = self.new(), left
        return True


class _Zstandard(io.RawIOBase):
    """Zstandard frames, unpacked by Arrow, which refuses windows of more than 128 MiB."""

    def __init__(self, stream: IO[bytes]) -> None:
        # Arrow would close the stream itself.
        source = SimpleNamespace(read=stream.read, close=lambda: None, closed=False)
        self.stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.stream.read(min(len(buffer), ZSTD_BLOCK))
        buffer[: len(content)] = content
        return len(content)
