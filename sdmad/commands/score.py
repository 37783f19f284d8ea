"""Score a whole archive with Ray Data and write Parquet score tables.

    sdmad score --archive s3://bucket/odir --detector runs/odir/train \\
        --output s3://bucket/odir-scores
"""

from typing import Annotated, Literal

import typer


def score(
    archive: Annotated[str, typer.Option(help="Prefix of shards and images, a path or s3:// URI.")],
    detector: Annotated[
        str, typer.Option(help="A fit, the folder of one shots value, or a training run.")
    ],
    output: Annotated[str, typer.Option(help="Where the tables go, a path or s3:// URI.")],
    per_seed: Annotated[
        bool, typer.Option(help="Also write each seed's scores (evaluate needs them).")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images in one forward pass.", min=1)] = 64,
    detectors: Annotated[
        str | None, typer.Option(help="Detector actors, least:most; follows the cluster.")
    ] = None,
    detector_gpus: Annotated[
        float | None, typer.Option(help="GPUs of one detector actor.", min=0)
    ] = None,
    detector_cpus: Annotated[
        float | None, typer.Option(help="CPUs that Ray counts for one detector actor.", min=0.1)
    ] = None,
    decode_seconds: Annotated[
        float, typer.Option(help="Longest time for one image; then it is quarantined.", min=1)
    ] = 120,
    precision: Annotated[
        Literal["auto", "single", "half"],
        typer.Option(help="auto: half on GPUs, single on CPUs."),
    ] = "auto",
    backbone_weights: Annotated[
        str | None, typer.Option(help="Checkpoint of the backbone, if it has moved.")
    ] = None,
) -> None:
    """Score what is not scored yet; the same command again resumes, or scores only what is new."""
    from sdmad import storage
    from sdmad.scoring.pools import PipelineConfig, parse_pool
    from sdmad.scoring.run import score_archive

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
        source, storage.resolve(detector), target, config, per_seed, backbone_weights
    )
    typer.echo(
        f"scored {tally.images} images, {tally.failures} failures, in {tally.units} units; "
        f"tables are at {target}"
    )
