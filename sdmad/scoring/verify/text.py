"""A verdict in words, as `sdmad verify` prints it."""

from collections.abc import Iterable, Iterator

from sdmad.scoring.verify.verdict import Verdict
from sdmad.words import counted

SHOWN = 10
JOBS = {"scored": "score", "encoded": "encode"}
ONE = {
    "sidecars": "sidecar",
    "hidden files": "hidden file",
    "macOS files": "macOS file",
    "pipes, sockets and devices": "pipe, socket or device",
    "Parquet tables without a column of bytes": "Parquet table without a column of bytes",
}


def lines(verdict: Verdict, done: str = "scored") -> Iterator[str]:
    """The counts in one line, then the first names of each kind, `SHOWN` at most.

    `done` is what has been done with images: scored or encoded.
    """
    count, job = verdict.count, JOBS[done]
    yield (
        f"{counted(verdict.images, 'image')} in the archive, {verdict.scored:,} {done}, "
        f"{counted(verdict.failed, 'failure')}, {count['lost']:,} lost, "
        f"{count['doubled']:,} doubled, {count['foreign']:,} not of this archive, "
        f"{count['unscored']:,} not {done} yet"
    )
    for kind, words in (
        ("lost", "lost"),
        ("doubled", "doubled"),
        ("foreign", "not of this archive"),
    ):
        yield from _shown(f"{words}: ", getattr(verdict, kind), count[kind])
    objects = [
        f"{name} ({counted(number, 'image')})" for name, number in sorted(verdict.unscored.items())
    ]
    yield from _shown(f"not {done} yet: ", objects)
    yield from _shown("changed since it was planned: ", verdict.changed, count["changed"])
    if verdict.changed:
        yield f"  the {job} job {job}s these again with --accept-changes"
    yield from _shown("cannot be read to its end: ", verdict.broken, count["broken"])
    gone = [f"{name} ({counted(number, 'row')})" for name, number in sorted(verdict.gone.items())]
    yield from _shown("no longer in the archive, but in the tables: ", gone)
    renamed = [f"{before} is called {after} now" for before, after in verdict.renamed]
    yield from _shown("renamed, so that its images are in the tables twice: ", renamed)
    if gone:
        yield f"  the {job} job removes these rows with --prune"
    if verdict.left_out:
        yield f"left out: {_left_out(verdict)}"
    suspects = "left out by its name, but begins like an image: "
    yield from _shown(suspects, verdict.suspects, count["suspects"])


def _shown(words: str, names: Iterable, count: int | None = None) -> Iterator[str]:
    """A line for each of the first names, and one for the number of the others."""
    texts = [name if isinstance(name, str) else "/".join(filter(None, name)) for name in names]
    yield from (f"  {words}{text}" for text in texts[:SHOWN])
    more = (count if count is not None else len(texts)) - len(texts[:SHOWN])
    if more > 0:
        yield f"  {words}{more:,} more"


def _left_out(verdict: Verdict) -> str:
    """As in "412 sidecars (400 .json, 12 .txt), 3 hidden files"."""
    parts = []
    for kind in sorted({kind for kind, _ in verdict.left_out}):
        details = {d: n for (k, d), n in verdict.left_out.items() if k == kind}
        largest = sorted(details.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{number:,} {detail}" for detail, number in largest[:SHOWN] if detail)
        total = sum(details.values())
        named = ONE.get(kind, kind) if total == 1 else kind
        parts.append(f"{total:,} {named}{f' ({listed})' if listed else ''}")
    return ", ".join(parts)
