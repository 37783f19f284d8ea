"""The record of one image of a download, and functions that recipes share.

A recipe is a function from the folder of a download to one `Record` per image. Order, splits and
names depend only on the names and contents of the files, so every machine writes the same archive.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdmad.errors import UserError

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"))
TEST_SHARE = 0.5
SEARCH_DEPTH = 3
IN_TEST = "the patient or an equal file is in the test split"


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a download: its file, its name in the archive, and its row of the label table.

    A slice of a volume is named `brain.nii.gz#frame=17`; the slices of a file follow each other.
    `left_out` is the reason why the image is not written, or empty.
    """

    path: Path
    member: str
    patient_id: str = ""
    split: str = ""
    labels: tuple[str, ...] = ()
    left_out: str = ""


def keep_apart(records: Iterable[Record]) -> list[Record]:
    """All records, with pool images of patients in the test split marked as left out."""
    settled = list(records)
    tested = {r.patient_id for r in settled if r.split == "test" and not r.left_out}
    return [
        replace(r, left_out=IN_TEST)
        if r.split == "pool" and r.patient_id in tested and not r.left_out
        else r
        for r in settled
    ]


def draw_test(patients: Iterable[str], share: float = TEST_SHARE) -> set[str]:
    """The patients of the test split, for downloads without a split.

    They are the first `share` of all patients in the order of the SHA-256 of their ids.
    """
    order = sorted(set(patients), key=lambda patient: hashlib.sha256(patient.encode()).digest())
    return set(order[: round(share * len(order))])


def content_id(path: Path) -> str:
    """A patient id for downloads that do not name patients: a hash of the file.

    It is the same for equal files only, not for different images of one patient.
    """
    with path.open("rb") as stream:
        return f"file-{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted by path, without hidden and system files."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted((p for p in found if not _hidden(p, folder)), key=Path.as_posix)


def _hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def find_root(source: Path, required: Sequence[str], layout: str) -> Path:
    """`source`, or the nearest folder below it, that contains all `required` paths.

    Raises `UserError` with a missing path and the expected `layout`.
    """
    check_folder(source)
    for depth in range(SEARCH_DEPTH + 1):
        folders = [source] if depth == 0 else sorted(source.glob("*/" * depth))
        for folder in folders:
            if all((folder / path).exists() for path in required):
                return folder
    missing = next(path for path in required if not (source / path).exists())
    raise wrong_layout(source, f"there is no {missing}", layout)


def find_file(source: Path, patterns: Sequence[str], layout: str) -> Path:
    """The file at or below `source` that matches the earliest pattern, the nearest if several do.

    Raises `UserError` with the patterns and the expected `layout`.
    """
    check_folder(source)
    for pattern in patterns:
        for depth in range(SEARCH_DEPTH + 1):
            found = [p for p in sorted(source.glob("*/" * depth + pattern)) if p.is_file()]
            if found:
                return found[0]
    raise wrong_layout(source, f"there is no file {' or '.join(patterns)}", layout)


def check_folder(source: Path) -> None:
    """Raise `UserError` unless `source` is a folder on this machine."""
    if not source.is_dir():
        raise UserError(
            f"there is no folder {source}; give the folder in which the download was unpacked"
        )


def wrong_layout(source: Path, what: str, layout: str) -> UserError:
    """The error for a download with another layout: what is wrong, where, and what is expected."""
    return UserError(f"in {source} {what}; the layout should be {layout}")
