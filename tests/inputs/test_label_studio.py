"""Label Studio's files: what is written for it, and exports as it writes them."""

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from sdmad.errors import UserError
from sdmad.inputs.label_studio import (
    Export,
    configuration,
    opens_in_browsers,
    read_export,
    tasks,
)

WHAT = "the export x.json"


def task(member: str, *annotations: dict[str, Any], **data: str) -> dict[str, Any]:
    """A task of an export, as Label Studio 1.x writes it."""
    kept = {"uri": f"s3://b/{member}", "archive": "", "member": member}
    kept |= {"patient_id": "p1", "split": "pool", "image": f"s3://b/{member}"}
    return {
        "id": 17,
        "annotations": list(annotations),
        "drafts": [],
        "predictions": [],
        "data": kept | data,
        "meta": {},
        "created_at": "2026-03-09T21:52:49.513742Z",
        "updated_at": "2026-03-09T22:16:08.746926Z",
        "total_annotations": len(annotations),
        "cancelled_annotations": sum(a["was_cancelled"] for a in annotations),
        "project": 83,
    }


def annotation(
    *choices: str,
    by: object = 1,
    at: str = "2026-03-09T22:16:08.728378Z",
    cancelled: bool = False,
    truth: bool = False,
    name: str = "labels",
) -> dict[str, Any]:
    value = {
        "id": "Dx_aB91ISN",
        "type": "choices",
        "value": {"choices": list(choices)},
        "origin": "manual",
        "from_name": name,
        "to_name": "image",
    }
    return {
        "id": 1001,
        "completed_by": by,
        "result": [value] if choices else [],
        "was_cancelled": cancelled,
        "ground_truth": truth,
        "created_at": "2026-03-09T22:16:08.728353Z",
        "updated_at": at,
        "lead_time": 4.288,
    }


def read(*exported: dict[str, Any], conflicts: Any = "refuse") -> Export:
    return read_export(json.dumps(exported).encode(), WHAT, conflicts)


def labels(export: Export) -> dict[str, str]:
    return {row["member"]: row["labels"] for row in export.rows}


def test_annotations_become_rows_of_a_label_table() -> None:
    export = read(
        task("1.png", annotation("tumour", "abscess")),
        task("2.png", annotation("normal")),
        task("3.png", annotation(cancelled=True)),
        task("4.png", annotation()),
        task("5.png"),
    )
    assert labels(export) == {"1.png": "abscess;tumour", "2.png": ""}
    assert (export.cancelled, export.empty, export.waiting) == (1, 1, 3)
    assert export.rows[0]["patient_id"] == "p1"
    assert export.rows[0]["split"] == "pool"


def test_of_one_annotator_the_last_annotation_counts() -> None:
    late, early = "2026-03-10T01:00:00Z", "2026-03-09T01:00:00Z"
    twice = task("1.png", annotation("tumour", at=late), annotation("normal", at=early))
    skipped = task("2.png", annotation("tumour"), annotation(cancelled=True, at=late))
    assert labels(read(twice, skipped)) == {"1.png": "tumour", "2.png": "tumour"}


def test_annotators_who_differ_are_refused_unless_one_is_right() -> None:
    ann, bo = {"id": 2, "email": "ann@x.org"}, {"id": 3, "email": "bo@x.org"}
    first = annotation("tumour", by=ann, at="2026-03-09T01:00:00Z")
    other = annotation("normal", by=bo, at="2026-03-09T02:00:00Z")
    with pytest.raises(UserError) as caught:
        read(task("1.png", first, other))
    for part in ("1.png", "ann@x.org: tumour", "bo@x.org: normal", "--conflicts last"):
        assert part in str(caught.value)
    assert labels(read(task("1.png", first, other), conflicts="last")) == {"1.png": ""}
    assert labels(read(task("1.png", first | {"ground_truth": True}, other))) == {"1.png": "tumour"}
    # The same image imported twice is one image.
    with pytest.raises(UserError, match=r"annotators of 1\.png differ"):
        read(task("1.png", first), task("1.png", other))
    same = annotation("tumour", by=bo)
    assert labels(read(task("1.png", first, same))) == {"1.png": "tumour"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b'{"id": 1}', "is not a list of tasks"),
        (b'[{"id": 1, "image": "x", "labels": "tumour", "annotator": 1}]', "not as JSON-MIN"),
        (json.dumps([task("")]).encode(), "data has no member"),
        (
            json.dumps([task("1.png", annotation("normal", "tumour"))]).encode(),
            r"task 17 \(1.png\) is labelled normal and tumour",
        ),
        (
            json.dumps([task("1.png", annotation("tumour", name="kind"))]).encode(),
            "has choices called 'kind', not 'labels'",
        ),
    ],
)
def test_other_files_are_refused_in_one_sentence(content, message) -> None:
    with pytest.raises(UserError, match=message):
        read_export(content, WHAT)


def test_the_configuration_offers_every_category_and_normal() -> None:
    root = ET.fromstring(configuration(["tumour", "a_b"]))  # noqa: S314 - our own
    image, choices = root.find("Image"), root.find("Choices")
    assert choices.attrib["toName"] == image.attrib["name"]
    assert choices.attrib["choice"] == "multiple"
    assert image.attrib["value"] == "$image"
    values = [choice.attrib["value"] for choice in choices.iter("Choice")]
    assert values == ["tumour", "a_b", "normal"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b/x.png", True),
        ("s3://b/x.JPG", True),
        ("s3://b/x.dcm", False),
        ("s3://b/s.tar#x.png", False),
        ("s3://b/x.png#frame=2", False),
        ("/disk/x.png", False),
    ],
)
def test_images_that_browsers_open_are_given_by_uri(uri, expected) -> None:
    assert opens_in_browsers(uri) is expected
    row = {"uri": uri, "archive": "s.tar", "member": "x", "patient_id": "", "split": "pool"}
    [made] = json.loads(tasks([row], {uri: "data:image/jpeg;base64,AA"}))
    assert made["data"]["image"] == (uri if expected else "data:image/jpeg;base64,AA")
    assert {key: made["data"][key] for key in row} == row
    [bare] = json.loads(tasks([row], {}))
    assert bare["data"]["image"] == uri
