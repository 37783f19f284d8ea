"""Fit Shift Adapters with Ray Train, one fit for each number of shots and each seed.

sdmad train --config configs/odir.yaml --output runs/odir/train
ray job submit --working-dir . -- python jobs/train_seeds.py --config ... --output s3://...
"""

from typing import Annotated

import typer


def train(
    config: Annotated[
        str,
        typer.Option(help="YAML configuration, path or s3:// URI; keys: docs/configuration.md."),
    ],
    output: Annotated[str, typer.Option(help="Where to write the fits: path or s3:// URI.")],
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
) -> None:
    """Fit Shift Adapters: one fit for each number of shots and each seed.

    Fits that are already there are skipped, so the same command resumes an
    interrupted run.
    """
    from sdmad import storage
    from sdmad.fitting.config import TrainConfig, load_config, parse_numbers
    from sdmad.fitting.run import train_seeds

    changes = {
        "seeds": seeds,
        "shots": parse_numbers(shots, "shots") if shots else None,
        "archive": archive,
        "labels": labels,
        "backbone": {"model": backbone} if backbone else None,
    }
    settings = load_config(config, changes, TrainConfig)
    target = storage.resolve(output)
    made = train_seeds(settings, target)
    typer.echo(f"wrote {made} new fits; the detectors are at {target}/fits/shots=<k>")
