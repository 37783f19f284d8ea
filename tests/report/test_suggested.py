"""Suggestions for real scores of phantoms: table, page in a browser, file for Label Studio."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from sdmad.commands.evaluate import evaluate
from sdmad.commands.labels import import_labels
from sdmad.commands.suggest import suggest
from sdmad.errors import UserError
from sdmad.inputs.labels import load_labels
from sdmad.report.suggested import SIDE, check_outputs, read_pictures, write_page
from sdmad.scoring.suggestions.run import suggest as choose
from tests.helpers import Ended, run_command
from tests.inputs.test_label_studio import annotation
from tests.report.made import stored
from tests.report.test_page import Structure, browse, needs_browser

# Clicks as a reader would, then gives the file that the button saves as the title of the page.
CLICKS = """<script>
URL.createObjectURL = blob => {
  blob.text().then(text => document.title = JSON.stringify(text));
  return "#";
};
const press = (row, value) => articles[row].querySelector(`input[value="${value}"]`).click();
press(0, "normal"); press(0, "tumour"); press(0, "abscess");
press(1, "tumour"); press(1, "normal");
press(2, "tumour"); press(2, "tumour");
document.getElementById("download").click();
</script></body>"""


@pytest.fixture(scope="module")
def run(scored, detector, tmp_path_factory) -> str:
    output = str(tmp_path_factory.mktemp("suggested") / "scores")
    metadata = scored.metadata | {"input": detector.spec.to_json()}
    return stored(replace(scored, metadata=metadata), output)


@pytest.fixture(scope="module")
def asked(run, archive, tmp_path_factory) -> tuple[Path, Ended]:
    """The folder with all that the command writes, and what it printed."""
    folder = tmp_path_factory.mktemp("asked")
    patients = folder / "patients.csv"
    rows = (archive / "labels.csv").read_text().replace(",test,", ",pool,")
    patients.write_text(rows)
    places = ("--output", folder / "todo.csv", "--page", folder / "page.html")
    places += ("--label-studio", folder / "tasks.json", "--patients", patients)
    ended = run_command(suggest, "--scores", run, "--count", 12, *places)
    assert ended.returncode == 0, ended.stderr
    return folder, ended


def test_the_table_names_the_images_and_says_why(asked, run, scored) -> None:
    folder, ended = asked
    assert "12 images to label, of 100 scored images (0 labelled already)" in ended.stdout
    assert "give --activations" in ended.stderr
    found = duckdb.read_csv(f"{folder}/todo.csv", all_varchar=True).df().to_dict("records")
    names = list(found[0])
    assert names[:6] == ["archive", "member", "patient_id", "split", "labels", "labelled"]
    assert {row["scores"] for row in found} == {run}
    assert [row["reason"] for row in found] == ["likely"] * 6 + ["uncertain"] * 6
    assert {row["category"] for row in found} == set(scored.table.categories)
    scores = dict(zip(scored.table.member, scored.scores, strict=True))
    column = scored.table.categories.index
    for row in found:
        right = scores[row["member"]][column(row["category"])]
        assert float(row["score"]) == pytest.approx(right, abs=1e-4)
        assert row["patient_id"].startswith("test-")


def test_what_waits_for_labels_is_refused_and_not_normal(asked, run, tmp_path) -> None:
    places = ("--labels", asked[0] / "todo.csv", "--output", tmp_path)
    ended = run_command(evaluate, "--scores", run, *places)
    assert ended.returncode == 2
    assert "line 2: the image is not labelled yet (12 rows of 12 have" in ended.stderr


def test_the_page_shows_pictures_and_no_scores(asked) -> None:
    page = (asked[0] / "page.html").read_text()
    structure = Structure(page)
    assert structure.open == []
    assert structure.count["article"] == structure.count["img"] == 12
    sources = structure.values("src", "href")
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources), "no network"
    picture = Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
    assert picture.size == (SIDE, SIDE)
    assert "not a medical device" in structure.text
    assert "likely" not in structure.text
    assert len(page) < 12 * 60_000


@needs_browser
def test_a_reader_labels_in_a_browser_and_saves_the_table(asked, tmp_path, archive) -> None:
    folder, _ = asked
    page = tmp_path / "page.html"
    page.write_text((folder / "page.html").read_text().replace("</body>", CLICKS))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    shown = browse(profile, "--virtual-time-budget=5000", "--dump-dom", page.as_uri())
    saved = json.loads(re.search(r"<title>(.*?)</title>", shown)[1].replace("&amp;", "&"))
    assert "2 of 12 images labelled" in shown
    (tmp_path / "saved.csv").write_text(saved)
    # Normal and a category exclude each other, and an image without a choice is left out.
    table = load_labels(str(tmp_path / "saved.csv"), ["tumour", "abscess"], str(archive))
    assert table.labels.tolist() == [[True, True], [False, False]]
    assert set(table.split) == {"pool"}


def test_label_studio_gives_the_images_back(asked, tmp_path) -> None:
    folder, _ = asked
    tasks = json.loads((folder / "tasks.json").read_text())
    assert len(tasks) == 12
    # Members of shards have no URI that a browser opens.
    assert all(t["data"]["image"].startswith("data:image/jpeg;base64,") for t in tasks)
    assert not [t for t in tasks if {"reason", "score"} & t["data"].keys()]
    assert '<Choice value="tumour"/>' in (folder / "tasks.xml").read_text()
    done = [t | {"id": k, "annotations": [annotation("tumour")]} for k, t in enumerate(tasks)]
    (tmp_path / "export.json").write_text(json.dumps(done))
    output = tmp_path / "labels.csv"
    ended = run_command(import_labels, tmp_path / "export.json", "--output", output)
    assert ended.returncode == 0, ended.stderr
    names = {t["data"]["member"] for t in tasks}
    assert set(load_labels(str(output), ["tumour"]).member) == names


def test_without_the_archive_the_page_has_no_pictures_and_says_so(run, tmp_path) -> None:
    found = choose(run, 3)
    metadata = found.metadata | {"archive": str(tmp_path / "gone")}
    shown = read_pictures(replace(found, metadata=metadata))
    assert not shown.uris
    write_page(found, shown, str(tmp_path / "page.html"))
    structure = Structure((tmp_path / "page.html").read_text())
    assert structure.text.count("no picture ") == 3
    assert "3 of 3 pictures cannot be read from the archive" in structure.text


def test_the_same_command_writes_the_same_table_but_never_over_labels(asked, run, tmp_path) -> None:
    table = tmp_path / "todo.csv"
    for _ in range(2):
        ended = run_command(suggest, "--scores", run, "--count", 5, "--output", table)
        assert ended.returncode == 0, ended.stderr
        assert "patient_id is empty" in ended.stderr
    filled = table.read_text().replace(",no,", ",yes,", 1)
    table.write_text(filled)
    ended = run_command(suggest, "--scores", run, "--count", 5, "--output", table)
    assert (ended.returncode, "has labels in it" in ended.stderr) == (2, True)
    assert table.read_text() == filled


@pytest.mark.parametrize(
    ("page", "studio", "message"),
    [
        ("page.htm", None, "--page .*page.htm does not end in .html"),
        (None, "tasks.txt", "does not end in .json"),
        ("other.html", None, "other.html exists, and is not what"),
        (None, "export.json", "export.json exists, and is not what"),
    ],
)
def test_other_files_are_kept(tmp_path, page, studio, message) -> None:
    (tmp_path / "other.html").write_text("<title>sdmad report</title>")
    (tmp_path / "export.json").write_text('[{"id": 1, "annotations": []}]')
    page, studio = (name and str(tmp_path / name) for name in (page, studio))
    with pytest.raises(UserError, match=message):
        check_outputs(str(tmp_path / "todo.csv"), page, studio)
