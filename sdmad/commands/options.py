"""Options that several commands share."""

from typing import Annotated, Any

import typer

Seeds = Annotated[
    str | None,
    typer.Option(help="Seeds, e.g. 0:16 (0 to 15) or 0,3,5. Default: as configured."),
]
Shots = Annotated[
    str | None,
    typer.Option(help="Labelled images per category, e.g. 1,2,4,8. Default: as configured."),
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
Scores = Annotated[
    str, typer.Option(help="Scoring run (the --output of score): path or s3:// URI.")
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


def configuration_changes(
    seeds: str | None,
    shots: str | None,
    archive: str | None,
    labels: str | None,
    backbone: str | None,
) -> dict[str, Any]:
    """What these options replace in a configuration; None leaves a key as it is.

    Raises `UserError` for shots that are neither a range nor a list of different numbers.
    """
    from sdmad.fitting.config import parse_numbers

    return {
        "seeds": seeds,
        "shots": parse_numbers(shots, "shots") if shots else None,
        "archive": archive,
        "labels": labels,
        "backbone": {"model": backbone} if backbone else None,
    }
