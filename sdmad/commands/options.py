"""Options that several commands share."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from sdmad.scoring.pools import PipelineConfig
    from sdmad.scoring.tally import Tally

Seeds = Annotated[
    str | None,
    typer.Option(help="Seeds, e.g. 0:16 (0 to 15) or 0,3,5. Default: as configured."),
]
Shots = Annotated[
    str | None,
    typer.Option(
        help="Labelled images per category: 1,2,4,8; train also takes all, or "
        "malignant=40,default=16. Default: as configured."
    ),
]
ConfiguredArchive = Annotated[
    str | None,
    typer.Option(help="Archive of images, path or s3:// URI. Default: as configured."),
]
ConfiguredLabels = Annotated[
    str | None,
    typer.Option(help="Label table, CSV or Parquet, path or s3:// URI. Default: as configured."),
]
ConfiguredBackbone = Annotated[
    str | None,
    typer.Option(help="Backbone with its own weights, e.g. a folder. Default: as configured."),
]
ConfiguredActivations = Annotated[
    str | None,
    typer.Option(
        help="Activations (the --output of encode) in place of images, path or s3:// URI. "
        "Default: as configured.",
    ),
]
Scores = Annotated[
    str, typer.Option(help="Scoring run (the --output of score): path or s3:// URI.")
]
Activations = Annotated[
    str | None, typer.Option(help="Activations (the --output of encode): path or s3:// URI.")
]
# Of the jobs that read an archive with Ray Data.
Archive = Annotated[
    str, typer.Option(help="Folder or prefix with shards and images: path or s3:// URI.")
]
BatchSize = Annotated[int, typer.Option(help="Images in one forward pass.", min=1)]
Detectors = Annotated[
    str | None,
    typer.Option(
        help="Number of actors that hold the model, e.g. 4 or 1:8 (fewest:most). "
        "Default: 1 up to what fits the cluster."
    ),
]
DetectorGpus = Annotated[
    float | None,
    typer.Option(help="GPUs for each of these actors. Default: 1 if there are GPUs.", min=0),
]
DetectorCpus = Annotated[
    float | None,
    typer.Option(
        help="CPUs that Ray reserves for each of these actors. "
        "Default: 1, or 0.5 if the cluster has at most 4 CPUs.",
        min=0.1,
    ),
]
DetectorCalls = Annotated[
    int | None,
    typer.Option(
        help="Batches that each of these actors works on at once. Default: 2 on GPUs, so that one "
        "is copied while the other is computed; 1 on CPUs.",
        min=1,
    ),
]
DecodeSeconds = Annotated[
    float,
    typer.Option(help="Seconds to decode one image; slower ones become failures.", min=1),
]
Precision = Annotated[
    Literal["auto", "single", "half"],
    typer.Option(help="Floating-point precision; auto: half on GPUs, single on CPUs."),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        help="Go on when objects disappeared before their turn, and take changed objects "
        "again. run.json names them."
    ),
]
Prune = Annotated[
    bool,
    typer.Option(help="Remove the rows of objects that are no longer in the archive."),
]

How = Annotated[
    str,
    typer.Option(
        help="How the scores of a group become one: maximum, mean-top (of the --top-k highest) or "
        "noisy-or."
    ),
]
TopK = Annotated[int, typer.Option(help="Number of highest scores that mean-top averages.", min=1)]


Names = Annotated[
    bool, typer.Option("--names", help="Also name some of the images or groups in notices.")
]


def pipeline(
    batch_size: int,
    detectors: str | None,
    detector_gpus: float | None,
    detector_cpus: float | None,
    detector_calls: int | None,
    decode_seconds: float,
    precision: Literal["auto", "single", "half"],
) -> "PipelineConfig":
    """The configuration that these options give a run over an archive."""
    from sdmad.scoring.pools import PipelineConfig, parse_pool

    return PipelineConfig(
        batch_size=batch_size,
        detectors=parse_pool(detectors) if detectors else None,
        detector_gpus=detector_gpus,
        detector_cpus=detector_cpus,
        detector_calls=detector_calls,
        decode_seconds=decode_seconds,
        precision=precision,
    )


def outcome(tally: "Tally", done: str, place: str) -> str:
    """What a run over an archive tells at its end: what was `done`, and the `place` of the results,
    as in "scored" and "the tables are at runs/scores"."""
    from sdmad.words import counted

    if not tally.units:
        return f"nothing to do: {counted(tally.skipped, 'work unit')} {done} before; {place}"
    return (
        f"{done} {counted(tally.images, 'image')} in {counted(tally.units, 'work unit')}, "
        f"{counted(tally.failures, 'failure')}; {place}"
    )


def configuration_changes(
    seeds: str | None,
    shots: str | None,
    archive: str | None,
    labels: str | None,
    backbone: str | None,
    activations: str | None,
) -> dict[str, Any]:
    """What these options replace in a configuration; None leaves a key as it is.

    Raises `UserError` for shots that are none of the forms of `sdmad.inputs.shots`.
    """
    from sdmad.inputs.shots import parse_shots

    return {
        "seeds": seeds,
        "shots": parse_shots(shots) if shots else None,
        "archive": archive,
        "labels": labels,
        "activations": activations,
        "backbone": {"model": backbone} if backbone else None,
    }
