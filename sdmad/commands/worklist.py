"""List the most anomalous images or groups of a scoring run, as CSV and as a page.

sdmad worklist --scores s3://bucket/scores --top 50 --without benign --output worklist.csv
"""

from typing import Annotated

import typer

from sdmad.commands.options import Names, Scores
from sdmad.runtime.cli import say


def worklist(
    scores: Scores,
    output: Annotated[
        str,
        typer.Option(help="CSV file to write, path or s3:// URI; the page is the same as .html."),
    ],
    top: Annotated[int, typer.Option(help="Number of images or groups.", min=1)] = 50,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Category that does not count: the others decide the order; repeatable."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Column of --groups: list its groups, by their highest image."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="Table of images and their groups, CSV or Parquet: path or s3:// URI."),
    ] = None,
    decision: Annotated[
        str | None,
        typer.Option(
            help="Decision file of calibrate: its findings come first, by calibrated probability."
        ),
    ] = None,
    names: Names = False,
    pictures: Annotated[
        bool, typer.Option(help="Show the images on the page; reads them from the archive.")
    ] = True,
) -> None:
    """List the most anomalous images or groups of a scoring run, as CSV and as a page.

    Ranked by the anomaly score; with --without by the highest score of the
    other categories. With --decision, and for tables of apply, images with
    findings come first, by probability. Needs no labels and no detector.
    """
    from sdmad import logs, storage
    from sdmad.errors import UserError
    from sdmad.report.worklist import Source, check_output, headline, write_worklist
    from sdmad.scoring.decisions import read_decision
    from sdmad.scoring.ranking import Ranking, rank_groups, rank_images

    if bool(by) != bool(groups):
        raise UserError("--by and --groups belong together; give both or neither")
    source, target = storage.resolve(scores), storage.resolve(output)
    check_output(target, by or "")
    read = read_decision(storage.resolve(decision)) if decision else None
    ranking = Ranking(tuple(without or ()), read)
    if by and groups:
        found = rank_groups(source, ranking, top, storage.resolve(groups), by)
    else:
        found = rank_images(source, ranking, top)
    made = Source.of(source, found)
    page = write_worklist(found, made, ranking, target, pictures, by or "")
    for notice in found.notices:
        logs.notice(notice, names)
    say(f"the {headline(found)}")
    say(f"wrote {target} and {page}")
