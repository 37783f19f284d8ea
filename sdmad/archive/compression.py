"""Streams of compressed tars, unpacked: gzip, bzip2, xz and Zstandard.

The first bytes decide, not the name. A file of several compressed streams, as `cat a.gz b.gz`,
bgzip, pigz and pzstd write them, is read to its end.
"""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from types import SimpleNamespace
from typing import IO, Any

import pyarrow as pa

from sdmad.archive.limits import LARGEST_WINDOW_BYTES

BLOCK = 256 << 10
ZSTD = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
XZ, LZMA = b"\xfd7zXZ\x00", b"\x5d\x00\x00\x80"


def unpacked(stream: IO[bytes]) -> tuple[IO[bytes], bool]:
    """A stream from its start, unpacked, and whether it was compressed.

    Reading raises an exception of `limits.DAMAGE` where the compressed data is damaged or ends
    early, or if unpacking would need more memory than `LARGEST_WINDOW_BYTES`.
    """
    stream.seek(0)
    start = stream.read(10)
    stream.seek(0)
    if start.startswith(b"\x1f\x8b\x08"):
        return gzip.GzipFile(fileobj=stream), True  # type: ignore[return-value]
    if start.startswith(b"BZh") and start[4:] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return _buffered(_Concatenated(stream, bz2.BZ2Decompressor)), True
    if start.startswith((XZ, LZMA)):
        return _buffered(_Concatenated(stream, _xz)), True
    if start.startswith(ZSTD) or start[1:4] == ZSTD_SKIPPABLE:
        return _buffered(_Zstandard(stream)), True
    return stream, False


def _buffered(raw: io.RawIOBase) -> IO[bytes]:
    return io.BufferedReader(raw, BLOCK)


def _xz() -> lzma.LZMADecompressor:
    # The dictionary, and room for the tables of the decoder.
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=LARGEST_WINDOW_BYTES + (1 << 20))


class _Concatenated(io.RawIOBase):
    """One compressed stream after the other, with zero bytes between them or at the end.

    `bz2.BZ2File` and `lzma.LZMAFile` stop at such padding, and have no limit for memory.
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
        content = self.stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
