"""What of an archive could be an image, by its name; for verification.

The rules are those of docs/reliability.md, written down a second time: a scorer with a wrong rule
must not agree with itself.
"""

import re
from pathlib import PurePosixPath

_TEXT = "json jsonl txt csv tsv xml yaml yml md html pdf log py cls"
_DATA = "idx md5 sha256 db safetensors pt npz bin"
NO_IMAGES = frozenset(f".{suffix}" for suffix in f"{_TEXT} {_DATA}".split(" "))
NO_IMAGES_BY_NAME = frozenset(("DICOMDIR", "Thumbs.db", "_SUCCESS", "README", "LICENSE"))
_SHARDS = (
    ("tar", re.compile(r"\.(tar|tgz|tbz2?|tb2|txz|tzst)$|\.tar\.(gz|bz2?|xz|lzma|zstd?)$", re.I)),
    ("zip", re.compile(r"\.zip$", re.I)),
    ("parquet", re.compile(r"\.parquet$", re.I)),
)


def shard_kind(name: str) -> str:
    """`tar`, `zip`, `parquet`, or empty for other files."""
    name = name.rpartition("/")[2].replace("\n", " ")
    return next((kind for kind, pattern in _SHARDS if pattern.search(name)), "")


def why_no_image(name: str) -> tuple[str, str]:
    """The kind of a file that is no image, and its suffix or name; two empty texts for others."""
    path = PurePosixPath(name)
    if name.endswith("/"):
        return "", ""  # A folder that cannot be listed may contain images.
    if "__MACOSX" in path.parts:
        return "macOS files", "__MACOSX"
    if path.name.startswith("."):
        return "hidden files", path.suffix or path.name
    if path.name in NO_IMAGES_BY_NAME:
        return "sidecars", path.name
    if path.suffix.lower() in NO_IMAGES:
        return "sidecars", path.suffix.lower()
    return "", ""
