"""Check that each image of an archive is exactly once in scores or failures.

sdmad verify --archive s3://bucket/odir --scores s3://bucket/odir-scores
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from sdmad.commands.options import Scores

if TYPE_CHECKING:
    from sdmad.scoring.verify import Verdict

SHOWN = 10


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

    source, run = storage.resolve(archive), storage.resolve(scores)
    storage.check_readable(source, "archive")
    open_plan(run)
    verdict = verify_scores(source, run, not names_only)
    for line in _lines(verdict):
        typer.echo(line)
    if not verdict.passed:
        raise typer.Exit(1)


def _lines(verdict: "Verdict") -> Iterable[str]:
    count = verdict.count
    yield (
        f"{verdict.images} images in the archive, {verdict.scored} scored, "
        f"{verdict.failed} failures, {count['lost']} lost, {count['doubled']} doubled, "
        f"{count['foreign']} not of this archive, {count['unscored']} not scored yet"
    )
    for kind, words in (
        ("lost", "lost"),
        ("doubled", "doubled"),
        ("foreign", "not of this archive"),
    ):
        yield from _shown(f"{words}: ", getattr(verdict, kind), count[kind])
    objects = [f"{name} ({_images(number)})" for name, number in sorted(verdict.unscored.items())]
    yield from _shown("not scored yet: ", objects)
    yield from _shown("changed since it was planned: ", verdict.changed, count["changed"])
    yield from _shown("cannot be read to its end: ", verdict.broken, count["broken"])
    gone = [f"{name} ({_rows(number)})" for name, number in sorted(verdict.gone.items())]
    yield from _shown("no longer in the archive, but in the tables: ", gone)
    renamed = [f"{before} is called {after} now" for before, after in verdict.renamed]
    yield from _shown("renamed, so that its images are in the tables twice: ", renamed)
    if gone:
        yield "  the score job removes these rows with --prune"
    if verdict.left_out:
        yield f"left out: {_left_out(verdict)}"
    suspects = "left out by its name, but begins like an image: "
    yield from _shown(suspects, verdict.suspects, count["suspects"])


def _shown(words: str, names: Iterable, count: int | None = None) -> Iterable[str]:
    """A line for each of the first names, and one for the number of the others."""
    texts = [name if isinstance(name, str) else "/".join(filter(None, name)) for name in names]
    yield from (f"  {words}{text}" for text in texts[:SHOWN])
    more = (count if count is not None else len(texts)) - len(texts[:SHOWN])
    if more > 0:
        yield f"  {words}{more} more"


def _left_out(verdict: "Verdict") -> str:
    """As in "412 sidecars (400 .json, 12 .txt), 3 hidden files"."""
    parts = []
    for kind in sorted({kind for kind, _ in verdict.left_out}):
        details = {d: n for (k, d), n in verdict.left_out.items() if k == kind}
        largest = sorted(details.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{number} {detail}" for detail, number in largest[:SHOWN] if detail)
        total = sum(details.values())
        parts.append(f"{total} {kind}{f' ({listed})' if listed else ''}")
    return ", ".join(parts)


def _images(number: int) -> str:
    return f"{number} image{'s' * (number != 1)}"


def _rows(number: int) -> str:
    return f"{number} row{'s' * (number != 1)}"
