"""Print the counts of a conversion as a table."""

from rich.console import Console
from rich.table import Table

from sdmad.inputs.catalog import Catalog
from sdmad.inputs.labels import SPLITS
from sdmad.recipes.archive_writer import NORMAL, Tally


def print_tally(tally: Tally, catalog: Catalog) -> None:
    """Print images by split and category, patients by split, and images left out by reason."""
    table = Table(title=f"images of {catalog.name}")
    table.add_column("category")
    for split in SPLITS:
        table.add_column(split, justify="right")
    for category in [*catalog.category_names, NORMAL]:
        table.add_row(category, *(f"{tally.labels[split, category]:,}" for split in SPLITS))
    table.add_section()
    table.add_row("images", *(f"{tally.images[split]:,}" for split in SPLITS))
    table.add_row("patients", *(f"{len(tally.patients[split]):,}" for split in SPLITS))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    for reason, count in sorted(tally.left_out.items()):
        console.print(f"left out, {reason}: {count:,}", highlight=False)
