"""List the most anomalous images or groups of a scoring run, as CSV and as a page.

sdmad worklist --scores s3://bucket/scores --top 50 --without benign --output worklist.csv
"""

from typing import Annotated

import typer

from sdmad.commands.options import Scores


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
    pictures: Annotated[
        bool, typer.Option(help="Show the images on the page; reads them from the archive.")
    ] = True,
) -> None:
    """List the most anomalous images or groups of a scoring run, as CSV and as a page.

    Ranked by the anomaly score; with --without by the highest score of the
    other categories. Needs no labels and no detector.
    """
    from sdmad import logs, storage
    from sdmad.errors import UserError
    from sdmad.report.worklist import Source, check_output, write_worklist
    from sdmad.scoring.ranking import Ranking, rank_groups, rank_images

    if bool(by) != bool(groups):
        raise UserError("--by and --groups belong together; give both or neither")
    source, target = storage.resolve(scores), storage.resolve(output)
    check_output(target)
    ranking = Ranking(tuple(without or ()))
    if by and groups:
        found = rank_groups(source, ranking, top, storage.resolve(groups), by)
    else:
        found = rank_images(source, ranking, top)
    made = Source.of(source, found)
    page = write_worklist(found, made, ranking, target, pictures, by or "")
    for notice in found.notices:
        logs.notice(notice)
    kind = "groups" if by else "images"
    of = f"{found.groups:,} groups with {found.images:,}" if by else f"{found.images:,}"
    typer.echo(f"the {len(found.entries)} highest {kind} of {of} scored images")
    typer.echo(f"wrote {target} and {page}")
