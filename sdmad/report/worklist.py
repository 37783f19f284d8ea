"""Worklists: the most anomalous images or groups of a scoring run, as CSV and as a page.

found = rank_images("runs/scores", Ranking(), 50)
write_worklist(found, Source.of("runs/scores", found), Ranking(), "worklist.csv")
"""

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from pydantic import TypeAdapter

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.errors import UserError
from sdmad.report.plots import png_uri
from sdmad.scoring.groups.run import fingerprint
from sdmad.scoring.ranking import Entry, Ranked, Ranking
from sdmad.words import code_version

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Source:
    """Which scores a worklist is from: URI of the run, and fingerprint of its finished units."""

    scores: str
    fingerprint: str

    @staticmethod
    def of(scores: str, found: Ranked) -> "Source":
        return Source(scores, fingerprint(found.metadata, found.units))


def check_output(uri: str) -> None:
    """Raise `UserError` for an output that is not called `.csv`: the page is written beside it."""
    if not uri.endswith(".csv"):
        raise UserError(f"--output {uri} does not end in .csv; the page is written beside it")
    storage.check_writable(storage.folder(uri))


def write_worklist(
    found: Ranked, source: Source, ranking: Ranking, uri: str, pictures: bool = True, by: str = ""
) -> str:
    """Write the table to `uri` and the page beside it; returns the URI of the page.

    `by` is the column of the groups, if any. Pictures are read from the archive; where that fails,
    the page says so.
    """
    storage.write_bytes(uri, _table(found, source, by).encode())
    page = f"{uri.removesuffix('.csv')}.html"
    storage.write_bytes(page, _page(found, source, ranking, uri, pictures, by).encode())
    return page


def _table(found: Ranked, source: Source, by: str) -> str:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    grouped = [by, "images", "images_with_findings"] if by else []
    columns = ["rank", *grouped, "archive", "member", "uri", "score", "findings", "uncertain"]
    writer.writerow([*columns, "signs", "scores", "scores_fingerprint"])
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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    shown, note = _pictures(found) if pictures else ({}, "")
    context = {
        "found": found,
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
    return environment.get_template("worklist.html").render(context)


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
