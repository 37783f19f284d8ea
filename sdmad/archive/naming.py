"""Names of objects and members: shard, image or sidecar, names of frames, URIs of images.

A frame of a file with several frames is named after the file, with `#frame=<number>` appended. The
number counts from 1, as in DICOM.
"""

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from sdmad.storage import names

_SUFFIXES = ".json .jsonl .txt .csv .tsv .xml .yaml .yml .md .html .pdf .idx .md5 .sha256"
SIDECAR_SUFFIXES = frozenset(f"{_SUFFIXES} .log .db .py .cls .safetensors .pt .npz .bin".split(" "))
SIDECAR_NAMES = frozenset(("DICOMDIR", "Thumbs.db", "_SUCCESS", "README", "LICENSE"))

_TAR = re.compile(r"\.(tar(\.(gz|bz2?|xz|lzma|zstd?))?|tgz|tbz2?|tb2|txz|tzst)\Z", re.IGNORECASE)
_INDEXED = re.compile(r"\.(zip|parquet)\Z", re.IGNORECASE)
_CLOSED = re.compile(r"\.(7z|rar|tar\.(z|lz|lz4|lzo|br|sz)|taz|tlz)\Z", re.IGNORECASE)
_FRAME = re.compile(r"#frame=([1-9][0-9]*)\Z")

escaped = names.escaped
clean = names.clean


def shard_kind(name: str) -> str | None:
    """The kind of a shard by its name ("tar", "zip" or "parquet"); None for other objects."""
    if _TAR.search(name):
        return "tar"
    found = _INDEXED.search(name)
    return found[1].lower() if found else None


def closed_format(name: str) -> str:
    """The suffix of an archive in a format that is not read, such as `.7z`; otherwise empty."""
    found = _CLOSED.search(name)
    return found[0] if found else ""


def is_sidecar(name: str) -> bool:
    """Whether a name is that of a sidecar: notes, tables, hidden and system files.

    Every other file is taken as an image, whatever its suffix, because DICOM files often have none.
    A name that ends with a slash is that of a folder which cannot be read, and no sidecar.
    """
    path = PurePosixPath(name)
    return not name.endswith("/") and (
        path.name in SIDECAR_NAMES
        or path.name.startswith(".")
        or "__MACOSX" in path.parts
        or path.suffix.lower() in SIDECAR_SUFFIXES
    )


def image_uri(object_uri: str, member: str | None, frame: int | None = None) -> str:
    """The URI of an image: the URI of its object, with member and frame as the fragment.

    For example `s.tar#scan.dcm&frame=3` for a member of a shard, `scan.dcm#frame=3` for an object.
    The fragment is what follows the last `#`, because `member` is percent-encoded. An object whose
    own URI contains `#` therefore always has a fragment, even if it is empty.
    """
    fragment = quote(member or "", errors="surrogatepass")
    if frame is not None:
        fragment += f"frame={frame}" if member is None else f"&frame={frame}"
    return f"{object_uri}#{fragment}" if fragment or "#" in object_uri else object_uri


def frame_name(member: str, frame: int | None) -> str:
    """The name of one frame; `member` itself if the file has only one (`frame` is None)."""
    return member if frame is None else f"{member}#frame={frame}"


def split_frame(name: str) -> tuple[str, int | None]:
    """The inverse of `frame_name`: the name of the file and the number of the frame."""
    match = _FRAME.search(name)
    return (name[: match.start()], int(match[1])) if match else (name, None)


def split_uri(uri: str) -> tuple[str, str | None]:
    """The inverse of `image_uri`: the object and the name in it, or the name and None if loose.

    Names are those of `frame_name`. A fragment that `image_uri` does not write belongs to the name
    of a loose object.
    """
    container, mark, fragment = uri.rpartition("#")
    if not mark:
        return uri, "" if shard_kind(uri) else None
    if shard_kind(container):
        member, between, frame = fragment.rpartition("&frame=")
        if not (between and frame.isdecimal()):
            member, frame = fragment, ""
        name = unquote(member, errors="surrogatepass")
        return container, frame_name(name, int(frame) if frame else None)
    if not fragment:
        return container, None
    return uri, None


def comparable(name: str) -> str:
    """The form in which names are compared when they do not match exactly.

    It is in Unicode NFC and has no `./` in front.
    """
    name = unicodedata.normalize("NFC", name)
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name
