"""What a reader accepts, so that no file can take more memory, and what it calls damage."""

import errno
import gzip
import lzma
import tarfile
import zipfile
import zlib

import pyarrow as pa

LARGEST_MEMBER_BYTES = 1 << 30
LARGEST_HEADER_BYTES = 1 << 20
LARGEST_IMAGE_PIXELS = 250_000_000
MOST_FRAMES = 50_000

# What libraries raise for a shard that is not what its name says.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, pa.ArrowException),
    *(EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError),
    *(ValueError, TypeError, LookupError, OverflowError, NotImplementedError, RuntimeError),
)

# The name of an image in its shard, its bytes, and the reason when there are none.
Entry = tuple[str, bytes | None, str]


INTERRUPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit)


class DecodeError(Exception):
    """Why bytes are not an image, in words for the failures table."""


def is_damage(error: Exception) -> bool:
    """Whether an exception speaks of the content of a shard and not of storage.

    pyarrow and gzip raise `OSError` for damage, without a system error's number; a directory of a
    zip that points before its beginning is an invalid argument (`EINVAL`) of a seek.
    """
    if isinstance(error, OSError) and not isinstance(error, DAMAGE):
        return error.errno in (None, errno.EINVAL)
    return isinstance(error, DAMAGE)


def too_large(size: int) -> str:
    """The reason why a member is not read, or an empty text."""
    return f"too large: {size} bytes" if size > LARGEST_MEMBER_BYTES else ""


def describe(error: Exception) -> str:
    """An exception in one line for the failures table."""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
