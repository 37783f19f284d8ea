"""Summarise a scored bucket without labels, as one page.

sdmad summary --scores s3://bucket/scores --output runs/summary
"""

from typing import Annotated

import typer

from sdmad.commands.options import Activations, Scores
from sdmad.runtime.cli import say


def summary(
    scores: Scores,
    output: Annotated[str, typer.Option(help="Where to write the page: path or s3:// URI.")],
    archive: Annotated[
        str | None,
        typer.Option(
            help="Archive that was scored, for pictures: path or s3:// URI. Default: where it was."
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Detector that made the scores, for maps of signs. Default: where it was."
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            help="Depth of the folders to compare, 1 for those at the top. "
            "Default: the first with more than one.",
            min=1,
        ),
    ] = None,
    activations: Activations = None,
) -> None:
    """Summarise a scored bucket without labels, as one page.

    Writes summary.html: findings by category, which occur together, folders that
    differ, the most anomalous, the most uncertain and random images, and
    failures by reason; with --activations, images unlike the support.
    """
    from sdmad import logs, storage
    from sdmad.report.summary import sentences, summarise_run

    target = storage.resolve(output)
    storage.check_writable(target)
    result = summarise_run(
        storage.resolve(scores),
        target,
        storage.resolve(archive) if archive else None,
        storage.resolve(detector) if detector else None,
        depth,
        storage.resolve(activations) if activations else None,
    )
    for notice in result.notices:
        logs.notice(notice)
    groups = result.overview.groups.compared(depth)
    for sentence in sentences(result.overview, groups, result.unlike):
        say(sentence)
    say(f"summary: {result.page}")
