"""Evaluate score tables by the three protocols and write a report.

sdmad evaluate --scores s3://bucket/scores --labels s3://bucket/labels.csv \\
        --output runs/report
"""

from typing import Annotated

import typer


def evaluate(
    scores: Annotated[str, typer.Option(help="The output of jobs/score_archive.py.")],
    labels: Annotated[str, typer.Option(help="Label table, CSV or Parquet.")],
    output: Annotated[str, typer.Option(help="Where report.html and the metrics go.")],
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Another scoring run to compare with, as name=URI; may be repeated."),
    ] = None,
) -> None:
    """Write report.html, protocols.parquet, audit_*.parquet and run.json; print the metrics."""
    from sdmad import storage
    from sdmad.report.run import evaluate_run, parse_baselines
    from sdmad.report.terminal import print_metrics

    target = storage.resolve(output)
    storage.check_writable(target)
    result = evaluate_run(
        storage.resolve(scores),
        storage.resolve(labels),
        target,
        parse_baselines(baseline or []),
    )
    print_metrics(result)
    typer.echo(f"report: {result.report}")
