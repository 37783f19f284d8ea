"""Label Studio: its import file, its labelling configuration, and its JSON export.

    configuration(["tumour", "abscess"])             # XML, for Settings > Labeling Interface
    tasks(rows, {})                                  # JSON, for Import
    read_export(content, "the export labels.json")   # JSON, not JSON-MIN

The formats are those of labelstud.io/guide/tasks and labelstud.io/guide/export. A task carries the
columns of its image in `data`, and Label Studio gives them back. Browsers do not open members of
shards, DICOM or TIFF, so the picture of such an image is in the task itself.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from sdmad.archive.naming import split_uri
from sdmad.errors import UserError
from sdmad.inputs.matching import shown

CONTROL = "labels"
"""The name of the choices, in configuration and export."""
NORMAL = "normal"
KEPT = ("uri", "archive", "member", "patient_id", "split")
IN_BROWSERS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"))
Conflicts = Literal["refuse", "last"]
Row = dict[str, str]


def configuration(categories: Iterable[str]) -> str:
    """The labelling configuration: several categories can be chosen, or normal."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in [*categories, NORMAL])
    return (
        "<View>\n"
        '  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        '  <Header value="Choose every category that the image shows, or normal."/>\n'
        f'  <Choices name="{CONTROL}" toName="image" choice="multiple" required="true">\n'
        f"{choices}\n"
        "  </Choices>\n"
        "</View>\n"
    )


def opens_in_browsers(uri: str) -> bool:
    """Whether Label Studio can show the object at a URI: a loose image of a format of the web."""
    member = split_uri(uri)[1]
    return member is None and PurePosixPath(uri).suffix.lower() in IN_BROWSERS and "://" in uri


def tasks(rows: Iterable[Row], pictures: Mapping[str, str]) -> str:
    """The import file. `rows` have the columns `KEPT` and others, `pictures` data URIs by URI.

    `data.image` is the URI of an image that browsers open, else its picture. Without a picture it
    is the URI all the same.
    """
    made = []
    for row in rows:
        uri = row["uri"]
        image = uri if opens_in_browsers(uri) else pictures.get(uri, uri)
        made.append(json.dumps({"data": {"uri": uri, **row, "image": image}}))
    return "[\n" + ",\n".join(made) + "\n]\n"


@dataclass
class Export:
    """Labelled images of an export; `labels` of a row are categories, separated by `;`.

    `cancelled` annotations were skipped by their annotator, `empty` ones name neither a category
    nor normal. `waiting` tasks have no annotation that counts.
    """

    rows: list[Row] = field(default_factory=list)
    cancelled: int = 0
    empty: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class _Annotation:
    annotator: str
    time: str
    labels: tuple[str, ...]
    truth: bool


def read_export(content: bytes, what: str, conflicts: Conflicts = "refuse") -> Export:
    """Read a JSON export of tasks that `tasks` made; `what` names it in exceptions.

    Of each annotator the last annotation counts. Where annotators differ, the annotation that is
    marked as ground truth counts, or with `conflicts` "last" the last one; otherwise that is a
    `UserError`. It is also raised for other files.
    """
    by_image: dict[tuple[str, str], tuple[Row, list[_Annotation]]] = {}
    export = Export()
    for number, task in enumerate(_tasks(content, what), 1):
        place = f"{what}, task {task.get('id', number)}"
        row = _row(task, place)
        kept = by_image.setdefault((row["archive"], row["member"]), (row, []))[1]
        for annotation in task["annotations"]:
            if annotation.get("was_cancelled"):
                export.cancelled += 1
            elif read := _annotation(annotation, f"{place} ({row['member']})"):
                kept.append(read)
            else:
                export.empty += 1
    for name, (row, annotations) in by_image.items():
        if annotations:
            labels = _agreed(annotations, f"{what}: annotators of {shown(name)}", conflicts)
            export.rows.append(row | {"labels": ";".join(labels)})
        else:
            export.waiting += 1
    return export


def _tasks(content: bytes, what: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{what} is not JSON ({error}); export as JSON from Label Studio") from None
    if not isinstance(found, list) or not all(isinstance(task, dict) for task in found):
        raise UserError(f"{what} is not a list of tasks; export as JSON from Label Studio")
    for task in found:
        if not isinstance(task.get("data"), dict) or not isinstance(task.get("annotations"), list):
            raise UserError(
                f"{what} has a task without data and annotations; export as JSON, not as JSON-MIN "
                "or another format"
            )
    return found


def _row(task: dict[str, Any], place: str) -> Row:
    data = task["data"]
    if not isinstance(data.get("member"), str) or not data["member"]:
        raise UserError(
            f"{place} does not name an image of an archive (data has no member); import the file "
            "that `sdmad suggest --label-studio` writes"
        )
    return {name: str(data.get(name) or "") for name in KEPT}


def _annotation(annotation: dict[str, Any], place: str) -> _Annotation | None:
    """What an annotation says; None if it says nothing."""
    chosen: list[str] = []
    for item in annotation.get("result") or []:
        if item.get("type") != "choices":
            continue
        if item.get("from_name") != CONTROL:
            raise UserError(
                f"{place} has choices called {item.get('from_name')!r}, not {CONTROL!r}; label "
                "with the configuration that `sdmad suggest --label-studio` writes"
            )
        chosen += (item.get("value") or {}).get("choices") or []
    if NORMAL in chosen and len(set(chosen)) > 1:
        others = ", ".join(sorted({*chosen} - {NORMAL}))
        raise UserError(f"{place} is labelled normal and {others}; correct it in Label Studio")
    if not chosen:
        return None
    return _Annotation(
        _annotator(annotation.get("completed_by")),
        str(annotation.get("updated_at") or annotation.get("created_at") or ""),
        tuple(sorted({*chosen} - {NORMAL})),
        bool(annotation.get("ground_truth")),
    )


def _annotator(value: Any) -> str:
    """Older exports have a number, newer ones a mapping."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return f"annotator {value}" if isinstance(value, int) else str(value or "unknown")


def _agreed(annotations: list[_Annotation], who: str, conflicts: Conflicts) -> tuple[str, ...]:
    ordered = sorted(annotations, key=lambda one: one.time)
    if truths := [one for one in ordered if one.truth]:
        return truths[-1].labels
    last = {one.annotator: one.labels for one in ordered}
    if len(set(last.values())) > 1 and conflicts == "refuse":
        said = ", ".join(f"{name}: {' and '.join(x) or NORMAL}" for name, x in last.items())
        raise UserError(
            f"{who} differ ({said}); agree in Label Studio, mark one annotation as ground truth, "
            "or take the last with --conflicts last"
        )
    return ordered[-1].labels
