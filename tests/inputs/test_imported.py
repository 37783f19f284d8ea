"""New labels beside those of another table."""

import json
from pathlib import Path

import pytest

from sdmad.commands.labels import import_labels
from sdmad.inputs.labels import load_labels
from tests.helpers import run_command
from tests.inputs.test_label_studio import annotation, task

HEADER = "archive,member,patient_id,split,labels"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_export_follows_the_rows_of_a_table(tmp_path) -> None:
    export = tmp_path / "export.json"
    made = [task("1.png", annotation("tumour")), task("2.png", annotation("normal")), task("3.png")]
    export.write_text(json.dumps(made))
    old = write(tmp_path / "old.csv", HEADER + ",mask", "a.tar,9.png,p9,test,abscess,m/9.png")
    places = (export, "--labels", old, "--output", tmp_path / "new.csv")
    ended = run_command(import_labels, *places)
    assert ended.returncode == 0, ended.stderr
    assert "2 labelled images, 1 of them normal; left out: 1 image without labels" in ended.stdout
    table = load_labels(str(tmp_path / "new.csv"), ["tumour", "abscess"])
    assert table.member.tolist() == ["9.png", "1.png", "2.png"]
    assert table.labels.tolist() == [[False, True], [True, False], [False, False]]
    assert table.masks.tolist() == ["m/9.png", "", ""]
    assert table.split.tolist() == ["test", "pool", "pool"]
    again = run_command(import_labels, *places)
    assert (again.returncode, "new.csv exists" in again.stderr) == (2, True)


def test_a_table_filled_in_by_hand_loses_the_rows_that_wait(tmp_path) -> None:
    head = HEADER + ",labelled,reason"
    rows = ("a.tar,1.png,p,pool,x,no,likely", "a.tar,2.png,p,pool,,yes,likely")
    filled = write(tmp_path / "todo.csv", head, *rows, "a.tar,3.png,p,pool,,no,uncertain")
    ended = run_command(import_labels, filled, "--output", tmp_path / "new.csv")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "new.csv").read_text().splitlines() == [
        HEADER,
        "a.tar,1.png,p,pool,x",
        "a.tar,2.png,p,pool,",
    ]


def test_tables_that_name_images_by_uri_stay_so(tmp_path) -> None:
    old = write(tmp_path / "old.csv", "uri,patient_id,split,labels", "s3://b/s.tar#1.png,p,test,x")
    head = HEADER + ",uri"
    new = write(tmp_path / "todo.csv", head, "s.tar,2.png,q,pool,x,s3://b/s.tar#2.png")
    ended = run_command(import_labels, new, "--labels", old, "--output", tmp_path / "new.csv")
    assert ended.returncode == 0, ended.stderr
    table = load_labels(str(tmp_path / "new.csv"), ["x"], "s3://b")
    assert table.member.tolist() == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ((HEADER, "./a.tar,1.png,p,pool,x"), (HEADER, "a.tar,1.png,p,pool,"), "is in"),
        (("uri,patient_id,split,labels", "s3://b/1.png,p,pool,x"), (HEADER, "a,1,p,pool,"), "lack"),
        ((HEADER,), (HEADER + ",labelled", "a.tar,1.png,p,pool,,no"), "has no labelled image"),
        ((HEADER,), (HEADER + ",labelled", "a.tar,1.png,p,pool,,maybe"), "must be yes or no"),
        ((HEADER,), ("member,labels", "1.png,x"), "has no column 'patient_id'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, old, new, message) -> None:
    places = write(tmp_path / "new.csv", *new), "--labels", write(tmp_path / "old.csv", *old)
    ended = run_command(import_labels, *places, "--output", tmp_path / "x.csv")
    assert (ended.returncode, message in ended.stderr) == (2, True), ended.stderr
    assert not (tmp_path / "x.csv").exists()
