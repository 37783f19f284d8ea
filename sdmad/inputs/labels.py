"""Label tables: the categories, the patient and the split of each labelled image.

A CSV or Parquet file with one row per image and these columns:

- `archive` and `member`, or `uri` in place of both; without `archive`, images are loose objects
- `labels`: category names separated by `;`, empty for normal
- `patient_id`
- `split`: `pool` or `test`

Other columns are ignored.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdmad import storage
from sdmad.archive.naming import split_uri
from sdmad.errors import UserError
from sdmad.storage import parquet

SPLITS = ("pool", "test")


@dataclass(frozen=True)
class LabelTable:
    """Labelled images in the order of the file. Each array has one entry per image.

    `labels` is bool (images, categories). `archive` is empty for loose objects.
    """

    archive: np.ndarray
    member: np.ndarray
    patient: np.ndarray
    split: np.ndarray
    labels: np.ndarray
    categories: list[str]

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
        )


def read_table(uri: str) -> pd.DataFrame:
    """A CSV or Parquet file as strings. Raises `UserError` if it is missing or cannot be parsed."""
    content = storage.read_file(uri, "label table")
    try:
        if uri.endswith(".parquet"):
            table = parquet.decode(content).to_pandas().astype(object)
            return table.where(table.notna(), "").astype(str)
        return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(f"the label table {uri} cannot be read: {error}") from None


def load_labels(uri: str, categories: list[str], archive_uri: str | None = None) -> LabelTable:
    """Read and validate a label table for the given categories.

    With a `uri` column, `archive_uri` is the prefix that `archive` and `member` are relative to.
    Raises `UserError` with the missing column, or with the row and its wrong value.
    """
    table = read_table(uri)
    if "member" not in table and "uri" in table:
        base = archive_uri or ""
        split = [_split_uri(value, base) for value in table["uri"]]
        table["archive"], table["member"] = zip(*split, strict=True) if split else ((), ())
    missing = [c for c in ("member", "patient_id", "split", "labels") if c not in table]
    if missing:
        raise UserError(
            f"the label table {uri} has no column {missing[0]!r}; it has {', '.join(table.columns)}"
        )
    if "archive" not in table:
        table["archive"] = ""
    labels = np.zeros((len(table), len(categories)), bool)
    position = {name: k for k, name in enumerate(categories)}
    for row, value in enumerate(table["labels"]):
        for label in filter(None, (part.strip() for part in value.split(";"))):
            if label not in position:
                raise UserError(
                    f"the label table {uri}, row {row + 2}: no category of the catalog is called "
                    f"{label!r}; categories are {', '.join(categories)}"
                )
            labels[row, position[label]] = True
    wrong = ~table["split"].isin(SPLITS)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"the label table {uri}, row {row + 2}: split is {table['split'].iloc[row]!r}; "
            "it must be 'pool' or 'test'"
        )
    twice = table.duplicated(["archive", "member"])
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise UserError(
            f"the label table {uri}, row {row + 2}: {table['member'].iloc[row]} is listed twice"
        )
    return LabelTable(
        archive=table["archive"].to_numpy(object),
        member=table["member"].to_numpy(object),
        patient=table["patient_id"].to_numpy(object),
        split=table["split"].to_numpy(object),
        labels=labels,
        categories=list(categories),
    )


def _split_uri(uri: str, base: str) -> tuple[str, str]:
    container, member = split_uri(uri)
    if member is not None:
        return storage.relative(container, base), member
    return "", storage.relative(container, base)
