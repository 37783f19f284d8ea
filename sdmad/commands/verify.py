"""Check that each image of an archive is exactly once in scores or failures.

sdmad verify --archive s3://bucket/odir --scores s3://bucket/odir-scores
sdmad verify --archive s3://bucket/odir --activations s3://bucket/odir-activations
"""

from typing import Annotated

import typer

from sdmad.commands.options import Activations
from sdmad.runtime.cli import say


def verify(
    archive: Annotated[str, typer.Option(help="Archive that was scored: path or s3:// URI.")],
    scores: Annotated[
        str | None,
        typer.Option(help="Scoring run (the --output of score): path or s3:// URI."),
    ] = None,
    activations: Activations = None,
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
    renamed since they were scored. With --activations, the same for what encode
    has made.
    """
    from sdmad import storage
    from sdmad.errors import UserError
    from sdmad.scoring import tables
    from sdmad.scoring.plan import open_plan
    from sdmad.scoring.verify import verify_scores
    from sdmad.scoring.verify.text import lines

    if (scores is None) == (activations is None):
        raise UserError("give either --scores or --activations, what is to be verified")
    table, done = (
        (tables.SCORES, "scored") if activations is None else (tables.ACTIVATIONS, "encoded")
    )
    source, run = storage.resolve(archive), storage.resolve(str(scores or activations))
    storage.check_readable(source, "archive")
    open_plan(run, table)
    verdict = verify_scores(source, run, not names_only, table)
    for line in lines(verdict, done):
        say(line)
    if not verdict.passed:
        raise typer.Exit(1)
