"""Check that each image of an archive is exactly once in scores or failures.

sdmad verify --archive s3://bucket/odir --scores s3://bucket/odir-scores
"""

from typing import Annotated

import typer

from sdmad.commands.options import Scores


def verify(
    archive: Annotated[str, typer.Option(help="Archive that was scored: path or s3:// URI.")],
    scores: Scores,
    names_only: Annotated[
        bool,
        typer.Option(
            "--names-only", help="Do not open images to count the frames in files of several."
        ),
    ] = False,
) -> None:
    """Check that each image is exactly once in scores or failures.

    Exits with 0 if so, and with 1 if images are lost, doubled or not scored yet,
    if rows belong to no image of the archive, or if objects changed or were
    renamed since they were scored.
    """
    from sdmad import storage
    from sdmad.scoring.plan import open_plan
    from sdmad.scoring.verify import verify_scores
    from sdmad.scoring.verify.text import lines

    source, run = storage.resolve(archive), storage.resolve(scores)
    storage.check_readable(source, "archive")
    open_plan(run)
    verdict = verify_scores(source, run, not names_only)
    for line in lines(verdict):
        typer.echo(line)
    if not verdict.passed:
        raise typer.Exit(1)
