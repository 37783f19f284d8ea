"""Score all images of an archive with Ray Data and write Parquet score tables.

    sdmad score --archive s3://bucket/odir --detector runs/odir/train \\
        --output s3://bucket/odir-scores
"""

from typing import Annotated

import typer

from sdmad.commands.options import (
    AcceptChanges,
    Activations,
    BatchSize,
    DecodeSeconds,
    DetectorCalls,
    DetectorCpus,
    DetectorGpus,
    Detectors,
    Precision,
    Prune,
    outcome,
    pipeline,
)
from sdmad.runtime.cli import say


def score(
    detector: Annotated[
        str,
        typer.Option(help="Training run, its folder for one number of shots, or a single fit."),
    ],
    output: Annotated[str, typer.Option(help="Where to write the tables: path or s3:// URI.")],
    archive: Annotated[
        str | None,
        typer.Option(help="Folder or prefix with shards and images: path or s3:// URI."),
    ] = None,
    activations: Activations = None,
    per_seed: Annotated[
        bool,
        typer.Option(
            help="Write the scores of each seed, which metrics over seeds need: 4 bytes an image, "
            "seed and category."
        ),
    ] = True,
    batch_size: BatchSize = 64,
    detectors: Detectors = None,
    detector_gpus: DetectorGpus = None,
    detector_cpus: DetectorCpus = None,
    detector_calls: DetectorCalls = None,
    decode_seconds: DecodeSeconds = 120,
    precision: Precision = "auto",
    accept_changes: AcceptChanges = False,
    prune: Prune = False,
    decision: Annotated[
        str | None,
        typer.Option(
            help="Decision file of calibrate, path or s3:// URI, for probabilities and findings. "
            "Default: findings are scores above 0.5."
        ),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(help="Checkpoint of the backbone. Default: the place named in the fits."),
    ] = None,
) -> None:
    """Score all images of an archive and write Parquet score tables.

    Give --archive to read its images, or --activations to score what encode
    has made of them. Finished work units are skipped: the same command resumes
    an interrupted run, and scores images that were added since.
    """
    from sdmad import storage
    from sdmad.errors import UserError

    if (archive is None) == (activations is None):
        raise UserError("give either --archive, to score images, or --activations")
    target = storage.resolve(output)
    config = pipeline(
        batch_size,
        detectors,
        detector_gpus,
        detector_cpus,
        detector_calls,
        decode_seconds,
        precision,
    )
    chosen = storage.resolve(decision) if decision else None
    options = (per_seed, backbone_weights, accept_changes, prune, chosen)
    if archive is not None:
        from sdmad.scoring.images import score_archive

        source = storage.resolve(archive)
        storage.check_readable(source, "archive")
        storage.check_writable(target)
        tally = score_archive(source, storage.resolve(detector), target, config, *options)
    else:
        from sdmad.scoring.stored import score_activations

        source = storage.resolve(str(activations))
        storage.check_writable(target)
        tally = score_activations(source, storage.resolve(detector), target, config, *options)
    say(outcome(tally, "scored", f"the tables are at {target}"))
