"""Choose thresholds and calibrate probabilities on labelled images; write a decision file.

sdmad calibrate --scores runs/scores --labels labels.csv --specificity 0.95 \\
        --prevalence effusion=0.05 --output runs/decision.json
"""

from typing import Annotated

import typer

from sdmad.commands.options import Names, Scores
from sdmad.runtime.cli import say


def calibrate(
    scores: Scores,
    labels: Annotated[str, typer.Option(help="Label table, CSV or Parquet: path or s3:// URI.")],
    output: Annotated[str, typer.Option(help="Decision file to write: path or s3:// URI.")],
    specificity: Annotated[
        float | None, typer.Option(help="Target: specificity of each category, e.g. 0.95.")
    ] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="Target: sensitivity of each category, e.g. 0.9.")
    ] = None,
    max_findings_a_thousand: Annotated[
        float | None,
        typer.Option(
            help="Target: findings of each category in a thousand images at most, e.g. 20."
        ),
    ] = None,
    prevalence: Annotated[
        list[str] | None,
        typer.Option(
            help="Share of images with a category where the detector is used, as category=share; "
            "repeatable. Default: the share in the split."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of the label table. Default: validation if the table has it, else pool."
        ),
    ] = None,
    as_scored: Annotated[
        list[str] | None,
        typer.Option(
            help="Category that keeps its scores and the threshold 0.5, e.g. because it has too "
            "few labelled images; repeatable."
        ),
    ] = None,
    training_labels: Annotated[
        str | None,
        typer.Option(help="Label table that the detector was trained with. Default: --labels."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="The detector that made the scores. Default: where it was."),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(help="Bootstrap replicates over patients, for intervals.", min=100)
    ] = 1000,
    names: Names = False,
) -> None:
    """Choose thresholds and calibrate probabilities on labelled images.

    Writes a decision file for `score --decision` and `apply`. The test split is
    refused, and support images of the detector are left out. Prints the
    threshold of each category, and what it reaches.
    """
    from sdmad import storage
    from sdmad.evaluation.calibrate import (
        Options,
        calibrate,
        parse_prevalence,
        parse_target,
        write_decision,
    )
    from sdmad.report.terminal import print_decision

    target = parse_target(specificity, sensitivity, max_findings_a_thousand)
    place = storage.resolve(output)
    options = Options(
        split=split,
        training_labels=storage.resolve(training_labels) if training_labels else None,
        detector=storage.resolve(detector) if detector else None,
        as_scored=tuple(as_scored or ()),
        bootstrap=bootstrap,
    )
    file, notices = calibrate(
        storage.resolve(scores),
        storage.resolve(labels),
        target,
        parse_prevalence(prevalence or []),
        options,
    )
    write_decision(file, place)
    print_decision(file, target, notices, names)
    say(f"decision file: {place}")
