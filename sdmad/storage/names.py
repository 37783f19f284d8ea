"""Names of local files as text that Parquet, JSON and a terminal can hold.

A file name is a sequence of bytes and need not be UTF-8. Each byte that is not becomes `\\xHH` in
URIs and tables, as in `scan\\xe9.png`.
"""

import errno
import os
import re
from pathlib import Path

_UNDECODABLE = re.compile("[\udc80-\udcff\x00]")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def escaped(name: str) -> str:
    """A name, as `os.fsdecode` or `tarfile` return it, as text.

    A backslash that already looks like an escape becomes `\\x5c`. So no two names give one text,
    and `unescaped` returns the name.
    """
    return clean(_ESCAPE.sub(r"\\x5cx\1", name) if "\\x" in name else name)


def unescaped(text: str) -> str:
    """The inverse of `escaped`."""
    return _ESCAPE.sub(lambda found: os.fsdecode(bytes([int(found[1], 16)])), text)


def clean(text: str) -> str:
    """Any string as text: undecodable bytes and NUL become `\\xHH`; text itself is unchanged."""
    if text.isascii() and "\x00" not in text:
        return text
    text = _UNDECODABLE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()


def is_possible(path: str) -> bool:
    """Whether a local file can have this path; damaged manifests hold names with zero bytes."""
    return "\0" not in path


def local_path(uri: str) -> Path:
    """The path of a local file. Raises `FileNotFoundError` for one that no file can have.

    A URI that the user wrote may contain what only looks like an escape; then it is taken as it is.
    """
    if not is_possible(uri):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
    if "\\x" in uri:
        path = Path(unescaped(uri))
        if os.path.lexists(path):
            return path
    return Path(uri)
