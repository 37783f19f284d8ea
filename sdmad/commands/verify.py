"""Check that each image of an archive is exactly once in scores or failures.

sdmad verify --archive s3://bucket/odir --scores s3://bucket/odir-scores
"""

from typing import Annotated

import typer

SHOWN = 10


def verify(
    archive: Annotated[str, typer.Option(help="Archive that was scored: path or s3:// URI.")],
    scores: Annotated[
        str, typer.Option(help="Scoring run (the --output of score): path or s3:// URI.")
    ],
) -> None:
    """Check that each image is exactly once in scores or failures.

    Exits with 0 if so, and with 1 if images are lost or doubled, or rows belong
    to no image of the archive.
    """
    from sdmad import storage
    from sdmad.scoring.plan import read_plan
    from sdmad.scoring.verify import verify_scores

    source, run = storage.resolve(archive), storage.resolve(scores)
    storage.check_readable(source, "archive")
    read_plan(run)
    verdict = verify_scores(source, run)
    typer.echo(
        f"{verdict.images} images in the archive, {verdict.scored} scored, "
        f"{verdict.failed} failures, {len(verdict.lost)} lost, {len(verdict.doubled)} doubled, "
        f"{len(verdict.foreign)} not of this archive"
    )
    for what in ("lost", "doubled", "foreign"):
        for shard, member in getattr(verdict, what)[:SHOWN]:
            typer.echo(f"  {what}: {'/'.join(filter(None, (shard, member)))}")
    if not verdict.passed:
        raise typer.Exit(1)
