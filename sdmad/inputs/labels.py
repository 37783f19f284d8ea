"""Label tables: the categories, the patient and the split of each labelled image.

A CSV or Parquet file with one row per image and these columns:

- `archive` and `member`, or `uri` in place of both; without `archive`, images are loose objects
- `labels`: category names separated by `;` (in Parquet also a list), empty for normal
- `patient_id`
- `split`: `pool` for training, `validation` for thresholds and probabilities, or `test`
- `labelled`, which may be left out: `no` for an image that waits for its labels. A table is refused
  while one waits, because empty `labels` would make it normal.
- `mask`, which may be left out: the path in the archive of an image that is 0 where there is no
  disease, in the shard of the image or a loose object

Other columns are ignored. Spaces around values are removed, and spaces within them are kept. Upper
and lower case are different, also in `patient_id`.
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from sdmad import storage
from sdmad.archive.naming import comparable, split_uri
from sdmad.inputs.tables import TextTable, read_table
from sdmad.words import choices, counted

SPLITS = ("pool", "test")
VALIDATION = "validation"
"""The split that `sdmad calibrate` reads, if a table has it."""
COLUMNS = ("archive", "member", "uri", "patient_id", "split", "labels", "labelled", "mask")
MISSING = frozenset(("", "nan", "none", "null", "n/a", "<na>", "nat"))
_YES, _NO = frozenset(("", "yes", "true", "1")), frozenset(("no", "false", "0"))
# Words for a normal image, as `_label_hint` compares them.
NORMAL = frozenset(
    (
        *("normal", "no_finding", "no_findings", "no_anomaly", "no_abnormality", "healthy"),
        *("negative", "unremarkable", "none", "nan", "null", "n/a", "0"),
    )
)


@dataclass(frozen=True)
class LabelTable:
    """Labelled images in the order of the file. Each array has one entry per image.

    `labels` is bool (images, categories). `archive` is empty for loose objects. `masks` are paths
    of masks, empty for images without one; None if the table has no such column.
    """

    archive: np.ndarray
    member: np.ndarray
    patient: np.ndarray
    split: np.ndarray
    labels: np.ndarray
    categories: list[str]
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.member)

    @property
    def digest(self) -> str:
        """SHA-256 of all rows, its first 16 hex digits."""
        content = hashlib.sha256()
        for column in (self.archive, self.member, self.patient, self.split):
            content.update("\x1f".join(column).encode("utf-8", "surrogateescape") + b"\x1e")
        content.update(self.labels.tobytes())
        return content.hexdigest()[:16]

    def where(self, mask: np.ndarray) -> "LabelTable":
        """The rows selected by a boolean mask or by row numbers."""
        return LabelTable(
            self.archive[mask],
            self.member[mask],
            self.patient[mask],
            self.split[mask],
            self.labels[mask],
            self.categories,
            None if self.masks is None else self.masks[mask],
        )


def load_labels(uri: str, categories: list[str], archive_uri: str | None = None) -> LabelTable:
    """Read and validate a label table for the given categories.

    With a `uri` column, `archive_uri` is the prefix that `archive` and `member` are relative to.
    Raises `UserError` with the missing column, or with the line and its wrong value.
    """
    table = read_table(uri, "label table", COLUMNS)
    for name in ("patient_id", "split", "labels"):
        table.require(name)
    waiting = waiting_rows(table)
    if waiting:
        raise table.error(
            waiting[0],
            f"the image is not labelled yet ({counted(len(waiting), 'row')} of {len(table):,} "
            f"{'has' if len(waiting) == 1 else 'have'} labelled=no and no labels); write its "
            "categories in labels, set labelled to yes if it is normal, or remove the row "
            "(`sdmad labels import` leaves such rows out)",
        )
    archives, members = image_names(table, archive_uri or "")
    for row, split in enumerate(table.columns["split"]):
        if split not in (*SPLITS, VALIDATION):
            raise table.error(row, f"split is {split!r}; it must be 'pool', 'validation' or 'test'")
    return LabelTable(
        archive=np.array(archives, object),
        member=np.array(members, object),
        patient=np.array(_patients(table), object),
        split=np.array(table.columns["split"], object),
        labels=_labels(table, categories),
        categories=list(categories),
        masks=np.array(table.columns["mask"], object) if "mask" in table.columns else None,
    )


def waiting_rows(table: TextTable) -> list[int]:
    """The rows of a label table that wait for their labels.

    Raises `UserError` for a value of `labelled` that is neither yes nor no.
    """
    waiting = []
    for row, value in enumerate(table.columns.get("labelled", [])):
        if value.lower() not in _YES | _NO:
            raise table.error(row, f"labelled is {value!r}; it must be yes or no")
        if value.lower() in _NO and not table.columns["labels"][row].strip("; "):
            waiting.append(row)
    return waiting


def image_names(table: TextTable, base: str) -> tuple[list[str], list[str]]:
    """The archive and member of each row of a table with these columns, or with `uri`.

    `base` is the URI of the archive that names are relative to. Raises `UserError` for names that
    are missing or listed twice.
    """
    if "uri" not in table.columns:
        table.require("member")
    if "member" in table.columns:
        members = table.columns["member"]
        archives = [
            storage.relative(name, base) if base else name
            for name in table.columns.get("archive", [""] * len(table))
        ]
    else:
        split = [_split_uri(value, base) for value in table.columns["uri"]]
        archives, members = [a for a, _ in split], [m for _, m in split]
    seen: dict[tuple[str, str], int] = {}
    for row, name in enumerate(zip(archives, members, strict=True)):
        if not name[1]:
            raise table.error(row, "the name of the image is missing")
        before = seen.setdefault((comparable(name[0]), comparable(name[1])), row)
        if before != row:
            raise table.error(
                row, f"{name[1]} is listed twice, first in {table.places[before]}; keep one"
            )
    return archives, members


def _split_uri(uri: str, base: str) -> tuple[str, str]:
    uri = uri.removeprefix("file://")
    container, member = split_uri(uri)
    if member is not None:
        return storage.relative(container, base), member
    return "", storage.relative(container, base)


def _patients(table: TextTable) -> list[str]:
    """The patients, in Unicode NFC, so that one patient is one text."""
    patients = table.columns["patient_id"]
    for row, patient in enumerate(patients):
        if patient.lower() in MISSING:
            raise table.error(
                row,
                f"patient_id is {patient!r}; name the patient, since images of one patient must "
                "not be in both pool and test",
            )
    return [unicodedata.normalize("NFC", patient) for patient in patients]


def _labels(table: TextTable, categories: list[str]) -> np.ndarray:
    """Whether each image has each category: bool (images, categories)."""
    labels = np.zeros((len(table), len(categories)), bool)
    position = {name: k for k, name in enumerate(categories)}
    for row, value in enumerate(table.columns["labels"]):
        for label in filter(None, (part.strip() for part in value.split(";"))):
            if label not in position:
                raise table.error(
                    row,
                    f"no category of the catalog is called {label!r}; "
                    f"{_label_hint(label, categories)}",
                )
            labels[row, position[label]] = True
    return labels


def _label_hint(label: str, categories: list[str]) -> str:
    plain = re.sub(r"[\s-]+", "_", label.lower())
    if plain in NORMAL:
        return "leave labels empty for a normal image"
    parts = [part.strip() for part in re.split(r"[,|/+]", label)]
    if len(parts) > 1 and set(parts) <= set(categories):
        return f"separate categories with ;, as in {';'.join(parts)}"
    hint = choices(plain, categories, "categories")
    return f"{hint}; add it to the catalog, or remove the row"
