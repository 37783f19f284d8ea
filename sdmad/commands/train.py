"""Fit Shift Adapters for every (shots, seed) of a configuration, with Ray Train.

sdmad train --config configs/odir.yaml --output runs/odir/train
ray job submit --working-dir . -- python jobs/train_seeds.py --config ... --output s3://...
"""

from typing import Annotated

import typer


def train(
    config: Annotated[str, typer.Option(help="YAML configuration, a path or s3:// URI.")],
    output: Annotated[str, typer.Option(help="Where fits go, a path or s3:// URI.")],
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, 0:16 or 0,3,5; replaces the configuration's.")
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
    """Fit every (shots, seed) that is not there yet; the same command again resumes."""
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
    typer.echo(f"fitted {made} new adapters; detectors are at {target}/fits/shots=<k>")
