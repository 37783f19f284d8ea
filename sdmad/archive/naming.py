"""Names of objects and members: shard, image or sidecar, and the names of frames.

A frame of a file with several frames is named after the file, with `#frame=<number>` appended. The
number counts from 1, as in DICOM.
"""

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_SUFFIXES = ".json .jsonl .txt .csv .tsv .xml .yaml .yml .md .html .pdf .idx .md5 .sha256"
SIDECAR_SUFFIXES = frozenset(f"{_SUFFIXES} .log .db .py .cls .safetensors .pt .npz .bin".split(" "))
SIDECAR_NAMES = frozenset(("DICOMDIR", "Thumbs.db", "_SUCCESS", "README", "LICENSE"))


_FRAME = re.compile(r"#frame=([1-9][0-9]*)$")


def shard_kind(name: str) -> str | None:
    """The kind of a shard by its name ("tar", "zip" or "parquet"); None for other objects."""
    lower = name.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "tar"
    suffix = PurePosixPath(lower).suffix
    return {".zip": "zip", ".parquet": "parquet"}.get(suffix)


def is_sidecar(name: str) -> bool:
    """Whether a name is that of a sidecar: notes, tables, hidden and system files.

    Every other file is taken as an image, whatever its suffix, because DICOM files often have none.
    """
    path = PurePosixPath(name)
    return (
        path.name in SIDECAR_NAMES
        or path.name.startswith(".")
        or "__MACOSX" in path.parts
        or path.suffix.lower() in SIDECAR_SUFFIXES
    )


def image_uri(object_uri: str, member: str | None, frame: int | None = None) -> str:
    """The URI of an image: the URI of its object, with member and frame as the fragment.

    For example `s.tar#scan.dcm&frame=3` for a member of a shard, `scan.dcm#frame=3` for an object.
    """
    parts = [] if member is None else [quote(member, errors="surrogatepass")]
    if frame is not None:
        parts.append(f"frame={frame}")
    return "#".join([object_uri, *filter(None, ["&".join(parts)])])


def frame_name(member: str, frame: int | None) -> str:
    """The name of one frame; `member` itself if the file has only one (`frame` is None)."""
    return member if frame is None else f"{member}#frame={frame}"


def split_frame(name: str) -> tuple[str, int | None]:
    """The inverse of `frame_name`: the name of the file and the number of the frame."""
    match = _FRAME.search(name)
    return (name[: match.start()], int(match[1])) if match else (name, None)


def split_uri(uri: str) -> tuple[str, str | None]:
    """The inverse of `image_uri`: the object, and the name in it (None for a loose image)."""
    container, mark, fragment = uri.partition("#")
    if not mark:
        return uri, None
    member, _, frame = fragment.partition("&frame=")
    if shard_kind(container):
        name = unquote(member, errors="surrogatepass")
        return container, frame_name(name, int(frame) if frame.isdigit() else None)
    return uri, None


def clean(text: str) -> str:
    """Text that Parquet can store: undecodable bytes and NUL become backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def comparable(name: str) -> str:
    """The form in which names are compared when they do not match exactly.

    It is in Unicode NFC and has no `./` in front.
    """
    name = unicodedata.normalize("NFC", name)
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name
