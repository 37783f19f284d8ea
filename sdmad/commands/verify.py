"""Prove that every image of an archive stands exactly once in scores or failures.

sdmad verify --archive s3://bucket/odir --scores s3://bucket/odir-scores
"""

from typing import Annotated

import typer

SHOWN = 10


def verify(
    archive: Annotated[str, typer.Option(help="The archive that was scored.")],
    scores: Annotated[str, typer.Option(help="The output of jobs/score_archive.py.")],
) -> None:
    """Exit 0 only when nothing is lost, doubled or foreign; exit 1 otherwise."""
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
