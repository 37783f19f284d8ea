"""The summary of a bucket without labels, of a real detector's tables and of hand-made ones."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from sdmad.commands.summary import summary
from sdmad.evaluation.overview import SHOWN, Best, overview_of, wilson
from sdmad.report.summary import sentences, summarise_run
from sdmad.report.words import AT_STATED_PREVALENCE
from sdmad.scoring import tables
from tests.helpers import run_command, write_tar
from tests.report.made import label_table, scored_test, stored
from tests.report.test_page import Structure
from tests.scoring.test_redecide import write_run


@pytest.fixture(scope="module")
def scores(scored, tmp_path_factory) -> str:
    return stored(scored, str(tmp_path_factory.mktemp("scores")))


@pytest.fixture(scope="module")
def rows(scored) -> pa.Table:
    return scored.rows


def test_counts_are_those_of_the_rows(scores, scored) -> None:
    overview = overview_of(scores)
    names = list(overview.categories)
    found = np.array([[n in row for n in names] for row in scored.rows["findings"].to_pylist()])
    assert overview.images == len(found)
    assert overview.found.tolist() == found.sum(axis=0).tolist()
    assert overview.any == found.any(axis=1).sum()
    assert overview.several == (found.sum(axis=1) > 1).sum()
    assert (overview.together == found.T.astype(int) @ found).all()
    assert overview.alone.tolist() == found[found.sum(axis=1) == 1].sum(axis=0).tolist()
    assert overview.by_seed.tolist() == (scored.seeds > 0.5).sum(axis=0).tolist()
    assert overview.anomaly.sum() == overview.scores[0].sum() == len(found)


def test_galleries_are_the_extremes(scores, scored) -> None:
    overview = overview_of(scores)
    [unit] = {unit for unit, _ in overview.most_anomalous.places}
    part = tables.read_part(scores, "scores", unit).to_pylist()
    top = [part[row]["anomaly_score"] for _, row in overview.most_anomalous.places]
    assert top == sorted((r["anomaly_score"] for r in part), reverse=True)[:SHOWN]
    doubtful = [part[row]["uncertain"] for _, row in overview.most_uncertain.places]
    assert all(doubtful)
    assert len(set(overview.random.places)) == SHOWN


def test_a_single_category_is_not_shown_twice(tmp_path) -> None:
    """And a low prevalence that the fits state is why there is no finding."""
    truth = np.arange(40)[:, None] < 20
    write_tar(tmp_path / "archive" / "a.tar", {"0.png": b"x"})
    seeds, table = np.where(truth, 0.004, 0.001)[..., None], label_table(truth, ["one"])
    made = scored_test(table, seeds, archive=str(tmp_path / "archive"))
    run = stored(made, str(tmp_path / "scores"))
    result = summarise_run(run, str(tmp_path / "page"))
    page = Structure(Path(result.page).read_text()).text
    for twice in ("any finding 0", "score anomaly score", "occur together", "of these several"):
        assert twice not in page, twice
    assert "0 (0.0 %) have a finding. Never found: one." in page
    assert AT_STATED_PREVALENCE not in page
    result.overview.metadata["prevalence"] = "0.01"
    assert AT_STATED_PREVALENCE in sentences(result.overview, [])


def test_the_best_of_a_stream_are_those_of_all() -> None:
    rng, best = np.random.default_rng(0), Best()
    keys = rng.random(1000)
    keys[::3] = -np.inf
    for k, part in enumerate(np.array_split(keys, 9)):
        best.add(part, f"{k}")
    joined = np.concatenate([np.array_split(keys, 9)[int(u)][[r]] for u, r in best.places])
    assert joined.tolist() == sorted(keys, reverse=True)[:SHOWN]


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 50), (50, 50)])
def test_intervals_are_wilsons(k, n) -> None:
    theirs = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx(tuple(theirs), abs=1e-12)


def test_intervals_are_wider_where_units_differ(tmp_path) -> None:
    overview = overview_of(write_run(tmp_path / "run", units=12, done=12))
    share = overview.found[0] / overview.images
    plain = wilson(int(overview.found[0]), overview.images)
    low, high = overview.interval(0)
    assert low <= plain[0] < share < plain[1] <= high
    overview._products[0, 0] *= 3  # As if a few units had all findings.
    assert overview.interval(0)[1] > high


def test_the_page_has_pictures_maps_and_all_sections(scores, tmp_path) -> None:
    result = summarise_run(scores, str(tmp_path))
    structure = Structure(Path(result.page).read_text())
    assert structure.open == []
    assert all(s.startswith(("data:", "#")) for s in structure.values("src", "href", "xlink:href"))
    anchors = set(structure.values("id"))
    assert {link[1:] for link in structure.values("href") if link.startswith("#")} <= anchors
    assert structure.count["article"] == 3 * SHOWN
    assert "A category is found where its score is above 0.5" in structure.text
    assert "map of" in " ".join(structure.values("alt"))
    assert "Not computed: score tables hold no embeddings. Run sdmad encode" in structure.text
    assert result.notices == []


def test_without_archive_and_detector_the_numbers_are_there(tmp_path) -> None:
    run = write_run(tmp_path / "run", units=3, done=2)
    result = run_command(summary, "--scores", run, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "1 work unit without scores yet" in result.stderr
    assert "no pictures: the archive a cannot be read" in result.stderr
    text = Structure((tmp_path / "out" / "summary.html").read_text()).text
    assert "not readable" in text
    assert "80 images, all of them scored." in text


def test_failures_are_listed_by_reason_and_names_are_escaped(tmp_path) -> None:
    run = write_run(tmp_path / "run", units=1, done=1)
    (unit,) = tables.done_units(run)
    failed = [
        {"uri": "u", "archive": "a.tar", "member": f"<b>{k}.png", "stage": "decode"}
        | {"reason": "damaged image: OSError" if k else "unknown image format"}
        for k in range(6)
    ]
    table = pa.Table.from_pylist(failed, tables.empty_failures().schema)
    tables.commit_unit(run, unit, tables.read_part(run, "scores", unit), table, {})
    result = summarise_run(run, str(tmp_path / "out"))
    page = Path(result.page).read_text()
    assert re.search(r"damaged image</td><td class=\"n\">5</td>", page)
    assert "<b>1.png" not in page
    assert "a.tar/&lt;b&gt;1.png" in page


def test_it_is_refused_without_scores_and_in_their_place(tmp_path) -> None:
    nothing = run_command(summary, "--scores", tmp_path / "no", "--output", tmp_path / "o")
    assert (nothing.returncode, "there is no scoring run at" in nothing.stderr) == (2, True)
    run = write_run(tmp_path / "run", units=1, done=0)
    empty = run_command(summary, "--scores", run, "--output", tmp_path / "o")
    assert (empty.returncode, "no work unit of" in empty.stderr) == (2, True)
    same = run_command(summary, "--scores", run, "--output", run)
    assert (same.returncode, "choose another output" in same.stderr) == (2, True)
