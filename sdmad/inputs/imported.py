"""Labels from elsewhere as a label table: what Label Studio exports, or a table filled in by hand.

    imported = import_labels("export.json", "labels.csv")
    imported.encode()

Images that wait for their labels are left out. The rows of another label table can stand before.
"""

import csv
import io
from dataclasses import dataclass

from sdmad import storage
from sdmad.archive.naming import comparable
from sdmad.errors import UserError
from sdmad.inputs.label_studio import Conflicts, Export, Row, read_export
from sdmad.inputs.labels import COLUMNS, waiting_rows
from sdmad.inputs.matching import shown
from sdmad.inputs.tables import TextTable, read_table


@dataclass(frozen=True)
class Imported:
    """The new rows and what was left out (`export`), and the rows `before` with their `columns`."""

    export: Export
    before: list[Row]
    columns: list[str]

    def encode(self) -> bytes:
        """The label table as CSV."""
        sink = io.StringIO(newline="")
        writer = csv.DictWriter(sink, self.columns, "", "ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*self.before, *self.export.rows])
        return sink.getvalue().encode("utf-8", "surrogateescape")


def import_labels(
    uri: str, table_uri: str | None = None, conflicts: Conflicts = "refuse"
) -> Imported:
    """Read labels from a JSON export of Label Studio or a label table (CSV or Parquet) at `uri`.

    The rows of the label table at `table_uri` stand before them. Raises `UserError` as
    `read_export`, and for an image that is in both.
    """
    if uri.lower().endswith(".json"):
        content = storage.read_file(uri, "export")
        export = read_export(content, f"the export {uri}", conflicts)
    else:
        table = _table(uri)
        rows = _rows(table)
        export = Export([row for row in rows if row], waiting=rows.count({}))
    if table_uri is None:
        columns = ["archive", "member", "patient_id", "split", "labels"]
        if not all(row.get("member") for row in export.rows):
            columns[:2] = ["uri"]
        return Imported(export, [], columns)
    table = _table(table_uri)
    before = [row for row in _rows(table) if row]
    columns = [name for name in COLUMNS if name in table.columns and name != "labelled"]
    if "member" in columns and "archive" not in columns:
        columns.insert(0, "archive")
    named = ("member", "archive") if "member" in columns else ("uri",)
    _check_new(export.rows, before, named, table_uri)
    return Imported(export, before, columns)


def _table(uri: str) -> TextTable:
    table = read_table(uri, "label table", COLUMNS)
    for name in ("patient_id", "split", "labels"):
        table.require(name)
    if "uri" not in table.columns:
        table.require("member")
    return table


def _rows(table: TextTable) -> list[Row]:
    """The rows of a table; an empty one where the image waits for its labels."""
    waiting = set(waiting_rows(table))
    return [
        {} if k in waiting else {name: values[k] for name, values in table.columns.items()}
        for k in range(len(table))
    ]


def _check_new(rows: list[Row], before: list[Row], named: tuple[str, ...], uri: str) -> None:
    """Raise `UserError` for a row without the columns `named`, or that is in `before` too."""

    def key(row: Row) -> tuple[str, ...]:
        return tuple(comparable(row.get(name, "")) for name in named)

    there = {key(row) for row in before}
    for row in rows:
        if not row.get(named[0]):
            raise UserError(
                f"{uri} names images by {named[0]}, which the new labels lack; use a table "
                "with the same columns"
            )
        if key(row) in there:
            name = shown((row.get("archive", ""), row.get("member", ""))) or row["uri"]
            raise UserError(f"{name} is in {uri} already; remove one of its two rows")
