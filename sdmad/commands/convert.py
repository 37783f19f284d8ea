"""Convert a public dataset into an archive of tar shards and a label table.

sdmad convert --recipe chest_xray --source downloads/ChestX-ray14 \\
        --output s3://bucket/chest-xray/archive
"""

from pathlib import Path
from typing import Annotated

import typer

from sdmad.runtime.cli import say


def convert(
    recipe: Annotated[
        str, typer.Option(help="Name of the dataset, e.g. fundus; all: docs/datasets.md.")
    ],
    source: Annotated[Path, typer.Option(help="Folder with the unpacked download.")],
    output: Annotated[
        str, typer.Option(help="Where to write the archive, empty: path or s3:// URI.")
    ],
) -> None:
    """Convert a public dataset into tar shards and a label table.

    Download and unpack the dataset first. Prints the number of images by split
    and category.
    """
    from sdmad import storage
    from sdmad.inputs.catalog import load_catalog
    from sdmad.recipes.archive_writer import check_empty, write_archive
    from sdmad.recipes.registry import find_recipe
    from sdmad.recipes.summary import print_tally
    from sdmad.words import counted

    chosen, target = find_recipe(recipe), storage.resolve(output)
    storage.check_writable(target)
    check_empty(target)
    tally = write_archive(chosen.records(source), target, chosen.name)
    print_tally(tally, load_catalog(chosen.catalog_name))
    images = counted(sum(tally.images.values()), "image")
    say(f"wrote {images} in {counted(tally.shards, 'shard')} to {target}")
