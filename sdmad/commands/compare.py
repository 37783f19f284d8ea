"""Compare SD-MAD with CLIP-based baselines or with variants of itself.

sdmad compare --config configs/comparisons/phantoms.yaml --output runs/compare
"""

from typing import Annotated

import typer


def compare(
    config: Annotated[
        str, typer.Option(help="YAML configuration, path or s3:// URI; keys: docs/comparison.md.")
    ],
    output: Annotated[str, typer.Option(help="Where to write the results: path or s3:// URI.")],
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds, e.g. 0:16 (0 to 15) or 0,3,5. Default: as configured."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Labelled images per category, e.g. 1,2,4,8. Default: as configured."),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(help="Archive of images, path or s3:// URI. Default: as configured."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Label table, CSV or Parquet, path or s3:// URI. Default: as configured."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Backbone with its own weights, e.g. a folder. Default: as configured."),
    ] = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(
            help="Bootstrap replicates over seeds and test patients; 0 leaves them out. "
            "Default: as configured, or 1000."
        ),
    ] = None,
) -> None:
    """Compare SD-MAD with CLIP-based baselines or with variants of itself.

    All methods use the same supports. Results that are already there are not
    computed again. Writes results.parquet, differences.parquet, comparison.md and
    plots.
    """
    from sdmad import storage
    from sdmad.comparison import bootstrap as two_level
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
        "bootstrap": bootstrap,
    }
    settings = load_config(config, changes, CompareConfig)
    target = storage.resolve(output)
    results = compare(settings, target)
    replicates = two_level.bootstrap(settings, target)
    typer.echo(write_pages(results, settings, target, replicates))
    typer.echo(f"wrote {target}/results.parquet and, with the tables above, {target}/comparison.md")
