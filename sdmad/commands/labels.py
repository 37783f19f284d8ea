"""Turn labels from elsewhere into a label table.

sdmad labels import export.json --output labels.csv
sdmad labels import to-label.csv --labels labels.csv --output more-labels.csv
"""

from typing import Annotated, Literal

import typer

from sdmad.runtime.cli import say


def import_labels(
    export: Annotated[
        str,
        typer.Argument(
            help="JSON export of Label Studio (.json), or a label table: path or s3:// URI."
        ),
    ],
    output: Annotated[str, typer.Option(help="Label table to write: CSV, path or s3:// URI.")],
    labels: Annotated[
        str | None,
        typer.Option(help="Label table whose rows stand before the new ones, CSV or Parquet."),
    ] = None,
    conflicts: Annotated[
        Literal["refuse", "last"],
        typer.Option(help="Where annotators differ: refuse, or take the last annotation."),
    ] = "refuse",
) -> None:
    """Turn an export of Label Studio, or a table filled in by hand, into a label table.

    Images that are not labelled are left out and counted.
    """
    from sdmad import storage
    from sdmad.errors import UserError
    from sdmad.inputs import imported
    from sdmad.words import counted

    target = storage.resolve(output)
    if not target.endswith(".csv"):
        raise UserError(f"--output {target} does not end in .csv")
    if storage.exists(target):
        raise UserError(f"{target} exists; choose another --output, or remove the file")
    storage.check_writable(storage.folder(target))
    table = None if labels is None else storage.resolve(labels)
    found = imported.import_labels(storage.resolve(export), table, conflicts)
    new = found.export
    if not new.rows:
        raise UserError(f"{export} has no labelled image")
    storage.write_bytes(target, found.encode())
    normal = sum(not row["labels"] for row in new.rows)
    say(
        f"{counted(len(new.rows), 'labelled image')}, {normal:,} of them normal; left out: "
        f"{counted(new.waiting, 'image')} without labels, "
        f"{counted(new.cancelled, 'skipped annotation')}, {counted(new.empty, 'empty annotation')}"
    )
    rows = len(found.before) + len(new.rows)
    say(f"wrote {target} with {counted(rows, 'row')}")
