"""A label table for choosing rules: the pool of another table, divided into pool and test.

    python benchmarks/development.py LABELS DEVELOPMENT
    sdmad compare --config CONFIG --archive ARCHIVE --labels DEVELOPMENT --output runs/development

LABELS is the label table of an archive, and DEVELOPMENT the one that is written, as CSV. Rows of
the splits test and validation are left out, so neither `sdmad train` nor `sdmad compare` sees a
label of them. The pool is divided by patient, about half and half, by the SHA-256 of "dev" and the
patient's id, so every machine divides alike. Prints images, patients and labels of both halves.
"""

import csv
import hashlib
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from sdmad.inputs.labels import COLUMNS
from sdmad.inputs.tables import read_table


def half(patient: str) -> str:
    """The split of a patient: the one of two halves that a SHA-256 gives."""
    number = int(hashlib.sha256(f"dev{patient}".encode()).hexdigest(), 16)
    return "pool" if number % 100 < 50 else "test"


def main(
    labels: Annotated[str, typer.Argument(help="Label table, path or s3:// URI.")],
    development: Annotated[Path, typer.Argument(help="The label table to write.")],
) -> None:
    """Divide the pool of a label table by patient into pool and test."""
    table = read_table(labels, "label table", COLUMNS)
    for name in ("patient_id", "split", "labels"):
        table.require(name)
    records = (
        dict(zip(table.columns, values, strict=True))
        for values in zip(*table.columns.values(), strict=True)
    )
    rows = [row | {"split": half(row["patient_id"])} for row in records if row["split"] == "pool"]
    with development.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table.columns))
        writer.writeheader()
        writer.writerows(rows)
    for split in ("pool", "test"):
        some = [row for row in rows if row["split"] == split]
        patients = len({row["patient_id"] for row in some})
        shown = Counter(name for row in some for name in row["labels"].split(";"))
        counts = ", ".join(f"{name or 'normal'} {shown[name]:,}" for name in sorted(shown))
        print(f"{split}: {len(some):,} images of {patients:,} patients; {counts}")
    print(f"left out: {len(table) - len(rows):,} images of other splits")


if __name__ == "__main__":
    typer.run(main)
