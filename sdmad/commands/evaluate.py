"""Compute the metrics of the three protocols and write a report.

sdmad evaluate --scores s3://bucket/scores --labels s3://bucket/labels.csv \\
        --output runs/report
"""

from typing import Annotated

import typer

from sdmad.commands.options import How, Names, Scores, TopK
from sdmad.runtime.cli import say


def evaluate(
    scores: Scores,
    labels: Annotated[str, typer.Option(help="Label table, CSV or Parquet: path or s3:// URI.")],
    output: Annotated[
        str, typer.Option(help="Where to write report and metrics: path or s3:// URI.")
    ],
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Another scoring run to compare with, as name=URI; repeatable."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Column of the label table, e.g. patient_id: also the metrics by its groups."
        ),
    ] = None,
    how: How = "maximum",
    top_k: TopK = 3,
    names: Names = False,
) -> None:
    """Compute the metrics of the three protocols and write a report.

    Uses the images whose split is "test" in the label table. Writes
    report.html, protocols.parquet, audit_*.parquet and run.json, and prints the
    metrics; with --by also protocols_by_group.parquet.
    """
    from sdmad import storage
    from sdmad.report.run import evaluate_run, parse_baselines
    from sdmad.report.terminal import print_metrics
    from sdmad.scoring.groups.pooling import Pooling

    target = storage.resolve(output)
    storage.check_writable(target)
    result = evaluate_run(
        storage.resolve(scores),
        storage.resolve(labels),
        target,
        parse_baselines(baseline or []),
        by,
        Pooling.parse(how, top_k),
    )
    print_metrics(result, names)
    say(f"report: {result.report}")
