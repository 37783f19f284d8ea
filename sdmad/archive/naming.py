"""What the names of objects and members say: shard, image, or something beside images."""

from pathlib import PurePosixPath
from urllib.parse import quote

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_SUFFIXES = ".json .jsonl .txt .csv .tsv .xml .yaml .yml .md .html .pdf .parquet .idx .md5 .sha256"
SIDECAR_SUFFIXES = frozenset(f"{_SUFFIXES} .log .db .py .cls .safetensors .pt .npz .bin".split(" "))
SIDECAR_NAMES = frozenset(("DICOMDIR", "Thumbs.db", "_SUCCESS", "README", "LICENSE"))


def shard_kind(name: str) -> str | None:
    """ "tar" or "zip" for the names of shards, None for every other name."""
    lower = name.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "tar"
    return "zip" if lower.endswith(".zip") else None


def is_sidecar(name: str) -> bool:
    """Whether a name is that of something beside images: notes, tables, hidden and system files.

    Everything else is taken for an image, whatever its suffix: DICOM files often have none.
    """
    path = PurePosixPath(name)
    return (
        path.name in SIDECAR_NAMES
        or path.name.startswith(".")
        or "__MACOSX" in path.parts
        or path.suffix.lower() in SIDECAR_SUFFIXES
    )


def image_uri(object_uri: str, member: str | None) -> str:
    """The URI of an image: the object's own, with the member of a shard as its fragment."""
    return object_uri if member is None else f"{object_uri}#{quote(member, errors='surrogatepass')}"


def clean(text: str) -> str:
    """Text that Parquet can hold: undecodable bytes of a name become backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
