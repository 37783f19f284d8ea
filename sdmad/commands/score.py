"""Score all images of an archive with Ray Data and write Parquet score tables.

    sdmad score --archive s3://bucket/odir --detector runs/odir/train \\
        --output s3://bucket/odir-scores
"""

from typing import Annotated, Literal

import typer


def score(
    archive: Annotated[
        str, typer.Option(help="Folder or prefix with shards and images: path or s3:// URI.")
    ],
    detector: Annotated[
        str,
        typer.Option(help="Training run, its folder for one number of shots, or a single fit."),
    ],
    output: Annotated[str, typer.Option(help="Where to write the tables: path or s3:// URI.")],
    per_seed: Annotated[
        bool,
        typer.Option(
            help="Write the scores of each seed, which metrics over seeds need: 4 bytes an image, "
            "seed and category."
        ),
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Images in one forward pass.", min=1)] = 64,
    detectors: Annotated[
        str | None,
        typer.Option(
            help="Number of detector actors, e.g. 4 or 1:8 (fewest:most). "
            "Default: 1 up to what fits the cluster."
        ),
    ] = None,
    detector_gpus: Annotated[
        float | None,
        typer.Option(help="GPUs for each detector actor. Default: 1 if there are GPUs.", min=0),
    ] = None,
    detector_cpus: Annotated[
        float | None,
        typer.Option(
            help="CPUs that Ray reserves for each detector actor. "
            "Default: 1, or 0.5 if the cluster has at most 4 CPUs.",
            min=0.1,
        ),
    ] = None,
    decode_seconds: Annotated[
        float,
        typer.Option(help="Seconds to decode one image; slower ones become failures.", min=1),
    ] = 120,
    precision: Annotated[
        Literal["auto", "single", "half"],
        typer.Option(help="Floating-point precision; auto: half on GPUs, single on CPUs."),
    ] = "auto",
    accept_changes: Annotated[
        bool,
        typer.Option(
            help="Go on when objects disappeared before they were scored, and score changed "
            "objects again. run.json names them."
        ),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(help="Remove the rows of objects that are no longer in the archive."),
    ] = False,
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

    Finished work units are skipped: the same command resumes an interrupted
    run, and scores images that were added to the archive since.
    """
    from sdmad import storage
    from sdmad.scoring.pools import PipelineConfig, parse_pool
    from sdmad.scoring.run import score_archive
    from sdmad.words import counted

    source, target = storage.resolve(archive), storage.resolve(output)
    storage.check_readable(source, "archive")
    storage.check_writable(target)
    config = PipelineConfig(
        batch_size=batch_size,
        detectors=parse_pool(detectors) if detectors else None,
        detector_gpus=detector_gpus,
        detector_cpus=detector_cpus,
        decode_seconds=decode_seconds,
        precision=precision,
    )
    tally = score_archive(
        source,
        storage.resolve(detector),
        target,
        config,
        per_seed,
        backbone_weights,
        accept_changes,
        prune,
        storage.resolve(decision) if decision else None,
    )
    if not tally.units:
        done = counted(tally.skipped, "work unit")
        typer.echo(f"nothing to do: {done} scored before; the tables are at {target}")
        return
    typer.echo(
        f"scored {counted(tally.images, 'image')} in {counted(tally.units, 'work unit')}, "
        f"{counted(tally.failures, 'failure')}; the tables are at {target}"
    )
