"""Worklists of real scores of phantoms: the table, the page and its pictures."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from sdmad.commands.worklist import worklist
from tests.helpers import run_command
from tests.report.made import stored
from tests.report.test_page import Structure


@pytest.fixture(scope="module")
def run(scored, detector, tmp_path_factory) -> str:
    output = str(tmp_path_factory.mktemp("worklist") / "scores")
    metadata = scored.metadata | {"input": detector.spec.to_json()}
    return stored(replace(scored, metadata=metadata), output)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_and_the_page_show_the_highest_images(tmp_path, run, scored) -> None:
    result = run_command(worklist, "--scores", run, "--top", 5, "--output", tmp_path / "list.csv")
    assert result.returncode == 0, result.stderr
    assert f"wrote {tmp_path}/list.csv and {tmp_path}/list.html" in result.stdout
    rows = read(tmp_path / "list.csv")
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    highest = sorted(scored.anomaly, reverse=True)[:5]
    assert [float(row["score"]) for row in rows] == pytest.approx(highest, abs=1e-4)
    assert {row["scores"] for row in rows} == {run}
    structure = Structure((tmp_path / "list.html").read_text())
    assert structure.open == []
    assert structure.count["article"] == structure.count["img"] == 5
    sources = structure.values("src", "href")
    assert all(s.startswith("data:") or s == "list.csv" for s in sources), "no network"
    assert "script" not in structure.count
    for part in ("not a medical device", "not therefore normal", rows[0]["member"], run):
        assert part in structure.text


def test_patients_are_listed_once_without_a_category(tmp_path, run, archive) -> None:
    places = ("--scores", run, "--output", tmp_path / "patients.csv", "--top", 200)
    groups = ("--by", "patient_id", "--groups", archive / "labels.csv")
    result = run_command(worklist, *places, *groups, "--without", "tumour", "--no-pictures")
    assert result.returncode == 0, result.stderr
    rows = read(tmp_path / "patients.csv")
    patients = [row["patient_id"] for row in rows]
    assert len(patients) == len(set(patients)) == 50
    assert [row["score"] for row in rows] == sorted((r["score"] for r in rows), reverse=True)
    structure = Structure((tmp_path / "patients.html").read_text())
    assert "img" not in structure.count
    assert "The score is the highest of all categories but tumour." in structure.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "x.txt"), "does not end in .csv"),
        (("--output", "x.csv", "--by", "patient_id"), "--by and --groups belong together"),
        (("--output", "x.csv", "--without", "tumor"), "is 'tumour' meant?"),
    ],
)
def test_mistakes_are_one_sentence(run, options, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_command(worklist, "--scores", run, *options)
    assert (result.returncode, message in result.stderr) == (2, True), result.stderr
    assert not list(tmp_path.iterdir())
