"""Size limits that bound the memory of a reader, and which exceptions mean damaged content."""

import errno
import gzip
import lzma
import tarfile
import zipfile
import zlib

import pyarrow as pa

LARGEST_MEMBER_BYTES = 1 << 30
LARGEST_HEADER_BYTES = 1 << 20
# Memory for the dictionary of a compressed tar; `xz -9` needs 64 MiB, `zstd --long` 128 MiB.
LARGEST_WINDOW_BYTES = 128 << 20
LARGEST_IMAGE_PIXELS = 250_000_000
MOST_FRAMES = 50_000
# Frames times pixels of a frame: an animation may repeat a large picture in a few bytes.
LARGEST_ANIMATION_PIXELS = 25_000_000_000

# What libraries raise for a damaged shard, or one in another format than its name says.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, pa.ArrowException),
    *(EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError),
    *(ValueError, TypeError, LookupError, OverflowError, NotImplementedError, RuntimeError),
)

# An image of a shard: its name, its bytes, and the reason if there are none.
Entry = tuple[str, bytes | None, str]


INTERRUPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit)


class DecodeError(Exception):
    """The file is not a usable image. The message becomes a reason in the failures table."""


def is_damage(error: Exception) -> bool:
    """Whether an exception means that a shard is damaged, and not that storage failed.

    pyarrow and gzip raise `OSError` without an errno for damage. The directory of a zip that points
    before the start of the file causes a seek with `EINVAL`.
    """
    if isinstance(error, OSError) and not isinstance(error, DAMAGE):
        return error.errno in (None, errno.EINVAL)
    return isinstance(error, DAMAGE)


def too_large(size: int) -> str:
    """The reason why a member of `size` bytes is not read; empty if it is within the limit."""
    return f"too large: {size} bytes" if size > LARGEST_MEMBER_BYTES else ""


def describe(error: Exception) -> str:
    """An exception in one line of at most 300 characters, for the failures table."""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
