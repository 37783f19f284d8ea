"""What to label next: a label table to fill in, a page to click on, a file for Label Studio.

found = suggest("runs/scores", 50)
shown = read_pictures(found)
write_table(found, "to-label.csv")
write_page(found, shown, "to-label.html")
write_tasks(found, shown, "tasks.json")
"""

import csv
import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.errors import UserError
from sdmad.fits import code_version
from sdmad.inputs.label_studio import configuration, tasks
from sdmad.report.plots import jpeg_uri
from sdmad.report.templates import templates
from sdmad.scoring.suggestions.run import Suggested

COLUMNS = (
    *("archive", "member", "patient_id", "split", "labels", "labelled"),
    *("category", "reason", "score", "uri", "scores", "scores_fingerprint"),
)
"""The columns of the table: those of label tables, then why an image is asked and by which
scores."""
SIDE = 384
"""Height and width of pictures, in pixels."""
TITLE = b"<title>sdmad labelling: "
AT_ONCE = 256
"""Pictures that are decoded before they are encoded again, 113 MB."""
START = 512  # Bytes of a file that tell what it is.


@dataclass(frozen=True)
class Pictures:
    """Pictures of images as data URIs, by the URI of the image; `note` says if some are missing."""

    uris: dict[str, str]
    note: str = ""


def check_outputs(table: str, page: str | None, studio: str | None) -> None:
    """Raise `UserError` for a wrong suffix, and for an existing file with other content, such as a
    table in which labels have been filled in."""
    for uri, suffix, option in (
        (table, ".csv", "--output"),
        (page, ".html", "--page"),
        (studio, ".json", "--label-studio"),
    ):
        if uri is not None and not uri.endswith(suffix):
            raise UserError(f"{option} {uri} does not end in {suffix}")
    places = [(table, b""), (page, TITLE), (studio, b'[\n{"data": {"uri": ')]
    places.append((studio and configuration_uri(studio), configuration([])[:80].encode()))
    for uri, mark in places:
        if uri is None:
            continue
        if storage.exists(uri):
            content = storage.read_bytes(uri)
            if not (mark in content[:START] if mark else _unfilled(content)):
                raise UserError(
                    f"{uri} exists, and is not what `sdmad suggest` writes or has labels in it; "
                    "choose another place, or remove the file"
                )
        storage.check_writable(storage.folder(uri))


def _unfilled(content: bytes) -> bool:
    """Whether a file is a table of suggestions without any label."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode())))
    except (UnicodeDecodeError, csv.Error):
        return False
    names = set(rows[0]) if rows else set()
    return names == set(COLUMNS) and all(r["labelled"] == "no" and not r["labels"] for r in rows)


def configuration_uri(studio: str) -> str:
    """The URI of the labelling configuration beside the import file of Label Studio."""
    return f"{studio.removesuffix('.json')}.xml"


def rows_of(found: Suggested) -> list[dict[str, str]]:
    """The rows of the table, in the order in which images were chosen."""
    return [
        {
            "archive": one.name[0],
            "member": one.name[1],
            "patient_id": one.patient,
            "split": "pool" if found.spread else "validation",
            "labels": "",
            "labelled": "no",
            "category": one.category,
            "reason": one.reason,
            "score": f"{one.score:.4f}",
            "uri": str(one.row["uri"]),
            "scores": found.scores,
            "scores_fingerprint": found.fingerprint,
        }
        for one in found.asked
    ]


def write_table(found: Suggested, uri: str) -> None:
    """Write the label table, in which every image waits for its labels."""
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(found))
    storage.write_bytes(uri, sink.getvalue().encode("utf-8", "surrogateescape"))


def read_pictures(found: Suggested) -> Pictures:
    """Read the images from their archive: whole, at most `SIDE` pixels high and wide."""
    base = found.metadata["archive"]
    names = {one.name: str(one.row["uri"]) for one in found.asked}
    read: dict[str, str] = {}
    try:
        spec = ImageSpec.from_json(found.metadata.get("input", ""))
        whole = replace(spec, size=(SIDE, SIDE), resize_mode="longest", fill_color=0)
        ordered = sorted(names)
        for start in range(0, len(ordered), AT_ONCE):
            pixels, _ = decode_members(base, ordered[start : start + AT_ONCE], whole)
            read |= {names[name]: jpeg_uri(picture) for name, picture in pixels.items()}
    except (ValueError, UserError, FileNotFoundError):
        return Pictures({}, f"the archive {base} cannot be read, so there are no pictures")
    lost = len(names) - len(read)
    note = f"{lost:,} of {len(names):,} pictures cannot be read from the archive" if lost else ""
    return Pictures(read, note)


def write_page(found: Suggested, shown: Pictures, uri: str) -> None:
    """Write a page, without network, on which a reader labels the images and saves the table.

    Why an image is asked is not on the page, so that it does not sway the reader.
    """
    rows = sorted(rows_of(found), key=lambda row: (row["archive"], row["member"]))
    kept = ("archive", "member", "patient_id", "split", "uri")
    made = datetime.now(UTC)
    context = {
        "found": found,
        "name": "/".join(found.scores.rstrip("/").split("/")[-2:]),
        "rows": rows,
        "data": [{name: row[name] for name in kept} for row in rows],
        "pictures": shown.uris,
        "note": shown.note,
        "side": SIDE,
        "key": f"sdmad-{found.fingerprint}-{made:%Y%m%d%H%M%S}",
        "made": made.strftime("%Y-%m-%d %H:%M UTC"),
        "version": code_version(),
    }
    page = templates().get_template("labelling.html").render(context)
    storage.write_bytes(uri, page.encode("utf-8", "surrogateescape"))


def write_tasks(found: Suggested, shown: Pictures, uri: str) -> str:
    """Write Label Studio's import file, and its configuration beside it; returns the URI of that.

    The tasks do not say why an image is asked.
    """
    why = {"labels", "labelled", "category", "reason", "score"}
    rows = [{key: row[key] for key in row if key not in why} for row in rows_of(found)]
    storage.write_bytes(uri, tasks(rows, shown.uris).encode())
    storage.write_bytes(configuration_uri(uri), configuration(found.categories).encode())
    return configuration_uri(uri)
