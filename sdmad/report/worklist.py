"""Worklists: the most anomalous images or groups of a scoring run, as CSV and as a page.

found = rank_images("runs/scores", Ranking(), 50)
write_worklist(found, Source.of("runs/scores", found), Ranking(), "worklist.csv")
"""

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.errors import UserError
from sdmad.report.examples import example
from sdmad.report.plots import png_uri
from sdmad.report.templates import templates
from sdmad.scoring.groups.run import fingerprint
from sdmad.scoring.ranking import Entry, Ranked, Ranking
from sdmad.words import code_version, counted

COLUMNS = (
    *("rank", "images", "images_with_findings", "archive", "member", "uri", "score"),
    *("findings", "uncertain", "signs", "scores", "scores_fingerprint"),
)
"""The columns of the table; the group stands after `rank`, the next two are there with groups."""
TITLE = b"<title>sdmad worklist: "
START = 512  # Bytes of a file that tell whether it is a worklist.


@dataclass(frozen=True)
class Source:
    """Which scores a worklist is from: URI of the run, and fingerprint of its finished units."""

    scores: str
    fingerprint: str

    @staticmethod
    def of(scores: str, found: Ranked) -> "Source":
        return Source(scores, fingerprint(found.metadata, found.units))


def check_output(uri: str, by: str = "") -> None:
    """Raise `UserError` for an output that is not called `.csv`, for existing files that are not
    those of a worklist, and for a column `by` that the worklist has itself."""
    if not uri.endswith(".csv"):
        raise UserError(f"--output {uri} does not end in .csv; the page is written beside it")
    if by in COLUMNS:
        raise UserError(f"a worklist has a column {by} of its own; rename that of --groups")
    for name, mark in ((uri, b"rank,"), (page_uri(uri), TITLE)):
        if storage.exists(name) and mark not in storage.read_bytes(name)[:START]:
            raise UserError(
                f"{name} exists and is not a worklist; choose another --output, or remove the file"
            )
    storage.check_writable(storage.folder(uri))


def page_uri(uri: str) -> str:
    """The URI of the page beside the table at `uri`."""
    return f"{uri.removesuffix('.csv')}.html"


def headline(found: Ranked) -> str:
    """As in "8 highest groups of 600 groups with 1,200 scored images"."""
    images = counted(found.images, "scored image")
    if not found.groups:
        return f"{counted(len(found.entries), 'highest image')} of {images}"
    groups = counted(found.groups, "group")
    return f"{counted(len(found.entries), 'highest group')} of {groups} with {images}"


def write_worklist(
    found: Ranked, source: Source, ranking: Ranking, uri: str, pictures: bool = True, by: str = ""
) -> str:
    """Write the table to `uri` and the page beside it; returns the URI of the page.

    `by` is the column of the groups, if any. Pictures are read from the archive; where that fails,
    the page says so.
    """
    storage.write_bytes(uri, _table(found, source, by).encode())
    page = page_uri(uri)
    storage.write_bytes(page, _page(found, source, ranking, uri, pictures, by).encode())
    return page


def _table(found: Ranked, source: Source, by: str) -> str:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    first, images, with_findings, *columns = COLUMNS
    grouped = [by, images, with_findings] if by else []
    writer.writerow([first, *grouped, *columns])
    for rank, entry in enumerate(found.entries, 1):
        row = entry.row
        group = [entry.group, entry.images, entry.with_findings] if by else []
        names = [row["archive"], row["member"], row["uri"], f"{entry.score:.4f}"]
        findings = ";".join(f"{name}={row[f'score_{name}']:.3f}" for name in row["findings"])
        signs = ";".join(f"{sign['category']}:{sign['sign']}" for sign in row["signs"])
        lists = [findings, ";".join(row["uncertain"]), signs]
        writer.writerow([rank, *group, *names, *lists, source.scores, source.fingerprint])
    return sink.getvalue()


def _page(
    found: Ranked, source: Source, ranking: Ranking, uri: str, pictures: bool, by: str
) -> str:
    shown, note = _pictures(found) if pictures else ({}, "")
    context = {
        "found": found,
        "headline": headline(found),
        "by_appearance": _by_appearance,
        "source": source,
        "ranking": ranking,
        "by": by,
        "name": "/".join(source.scores.rstrip("/").split("/")[-2:]),
        "csv": storage.name(uri),
        "pictures": shown,
        "note": note,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": code_version(),
    }
    return templates().get_template("worklist.html").render(context)


def _by_appearance(row: dict[str, Any]) -> list[str]:
    return example(row, None, "", several=False).by_appearance


def _name(entry: Entry) -> tuple[str, str]:
    return str(entry.row["archive"]), str(entry.row["member"])


def _pictures(found: Ranked) -> tuple[dict[str, str], str]:
    """Data URIs of the images that could be read, by URI; and a note if some could not."""
    try:
        spec = TypeAdapter(ImageSpec).validate_json(found.metadata.get("input", ""))
    except ValueError:
        return {}, "Pictures are left out: the tables do not say how images were prepared."
    names = {_name(entry): str(entry.row["uri"]) for entry in found.entries}
    try:
        pixels, _ = decode_members(found.metadata["archive"], list(names), spec)
    except (UserError, FileNotFoundError) as error:
        return {}, f"Pictures are left out: {error}."
    missing = len(names) - len(pixels)
    note = f"Pictures that could not be read from the archive: {missing}." if missing else ""
    return {names[name]: png_uri(picture) for name, picture in pixels.items()}, note
