"""Compare SD-MAD with CLIP-based baselines, or with variants of itself, on the same supports.

sdmad compare --config configs/comparisons/phantoms.yaml --output runs/compare
"""

from typing import Annotated

import typer


def compare(
    config: Annotated[str, typer.Option(help="Configuration, YAML: docs/comparison.md.")],
    output: Annotated[str, typer.Option(help="Where the results go, a path or s3:// URI.")],
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, e.g. 0:16; replaces the configuration's.")
    ] = None,
    shots: Annotated[
        str | None, typer.Option(help="Shots, e.g. 1,2,4,8; replaces the configuration's.")
    ] = None,
    archive: Annotated[
        str | None, typer.Option(help="Archive; replaces the configuration's.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label table; replaces the configuration's.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Backbone that brings its weights, e.g. a folder; replaces the other."),
    ] = None,
) -> None:
    """Compute every cell that is not there yet; write results.parquet, comparison.md and charts."""
    from sdmad import storage
    from sdmad.comparison.config import CompareConfig
    from sdmad.comparison.pages import write_pages
    from sdmad.comparison.run import compare
    from sdmad.fitting.config import load_config, parse_numbers

    changes = {
        "seeds": seeds,
        "shots": parse_numbers(shots, "shots") if shots else None,
        "archive": archive,
        "labels": labels,
        "backbone": {"model": backbone} if backbone else None,
    }
    settings = load_config(config, changes, CompareConfig)
    target = storage.resolve(output)
    results = compare(settings, target)
    typer.echo(write_pages(results, settings, target))
    typer.echo(f"results are at {target}/results.parquet, these tables at {target}/comparison.md")
