"""Fit Shift Adapters with Ray Train, one fit for each number of shots and each seed.

sdmad train --config configs/odir.yaml --output runs/odir/train
ray job submit --working-dir . -- python jobs/train_seeds.py --config ... --output s3://...
"""

from typing import Annotated

import typer

from sdmad.commands.options import (
    ConfiguredActivations,
    ConfiguredArchive,
    ConfiguredBackbone,
    ConfiguredLabels,
    Names,
    Seeds,
    Shots,
    configuration_changes,
)
from sdmad.runtime.cli import say


def train(
    config: Annotated[
        str,
        typer.Option(help="YAML configuration, path or s3:// URI; keys: docs/configuration.md."),
    ],
    output: Annotated[str, typer.Option(help="Where to write the fits: path or s3:// URI.")],
    seeds: Seeds = None,
    shots: Shots = None,
    archive: ConfiguredArchive = None,
    labels: ConfiguredLabels = None,
    backbone: ConfiguredBackbone = None,
    activations: ConfiguredActivations = None,
    names: Names = False,
) -> None:
    """Fit Shift Adapters: one fit for each number of shots and each seed.

    Fits that are already there are skipped, so the same command resumes an
    interrupted run. With a changed label table, only fits whose support has
    changed are made again.
    """
    from sdmad import storage
    from sdmad.fitting.config import TrainConfig, load_config
    from sdmad.fitting.run import train_seeds
    from sdmad.inputs.shots import key
    from sdmad.storage.fit_files import detector_uri
    from sdmad.words import counted

    changes = configuration_changes(seeds, shots, archive, labels, backbone, activations)
    settings = load_config(config, changes, TrainConfig)
    target = storage.resolve(output)
    encoded = None
    if settings.activations is not None:
        from sdmad.scoring.chosen import EncodedArchive

        encoded = EncodedArchive.open(storage.resolve(settings.activations))
    made = train_seeds(settings, target, encoded, names)
    places = [detector_uri(target, key(some)) for some in settings.shots]
    where = f"detector is at {places[0]}"
    if len(places) > 1:
        where = f"detectors are at {', '.join(places[:-1])} and {places[-1]}"
    say(f"wrote {counted(made, 'new fit')}; the {where}")
