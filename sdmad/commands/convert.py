"""Convert a public download into an archive of tar shards and its label table.

sdmad convert --recipe chest_xray --source downloads/ChestX-ray14 \\
        --output s3://bucket/chest-xray/archive
"""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    recipe: Annotated[str, typer.Option(help="Which download it is: docs/datasets.md.")],
    source: Annotated[Path, typer.Option(help="The folder that the download was unpacked in.")],
    output: Annotated[str, typer.Option(help="Where the archive goes, a path or s3:// URI.")],
) -> None:
    """Write tar shards and labels.csv; print images by split and category."""
    from sdmad import storage
    from sdmad.inputs.catalog import load_catalog
    from sdmad.recipes.archive_writer import check_empty, write_archive
    from sdmad.recipes.registry import find_recipe
    from sdmad.recipes.summary import print_tally

    chosen, target = find_recipe(recipe), storage.resolve(output)
    storage.check_writable(target)
    check_empty(target)
    tally = write_archive(chosen.records(source), target, chosen.name)
    print_tally(tally, load_catalog(chosen.name))
    typer.echo(f"wrote {sum(tally.images.values())} images in {tally.shards} shards to {target}")
