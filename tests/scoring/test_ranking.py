"""The highest images and groups of hand-made score tables, without Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sdmad.errors import UserError
from sdmad.scoring import tables
from sdmad.scoring.decisions import apply_to_rows, read_decision
from sdmad.scoring.ranking import Ranking, rank_groups, rank_images
from sdmad.scoring.redecide import apply_decision
from sdmad.scoring.tables import commit_unit, empty_failures
from sdmad.storage.run_record import write_record
from tests.evaluation.test_measure import CATEGORIES, write_run
from tests.scoring.test_redecide import DECISION
from tests.scoring.test_redecide import write_run as decided_run


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(5).random((40, 2)).astype(np.float32)


@pytest.fixture
def run(tmp_path, scores) -> str:
    return write_run(tmp_path / "run", scores[..., None])


def change(run: str, name: str, values: dict[str, object]) -> None:
    """Replace values of a column by the names of members."""
    for unit in tables.done_units(run):
        table = tables.read_part(run, "scores", unit)
        rows = zip(table["member"].to_pylist(), table[name].to_pylist(), strict=True)
        column = pa.array(
            [values.get(m, value) for m, value in rows], table.schema.field(name).type
        )
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), column)
        commit_unit(run, unit, table, empty_failures(), {})


def members(found) -> list[str]:
    return [entry.row["member"] for entry in found.entries]


def test_images_are_ranked_by_their_anomaly_score(run, scores) -> None:
    found = rank_images(run, Ranking(), 7)
    order = np.argsort(-scores.max(axis=1))[:7]
    assert members(found) == [f"{k}.png" for k in order]
    assert [e.score for e in found.entries] == pytest.approx(scores.max(axis=1)[order].tolist())
    assert (found.images, found.notices) == (40, [])


def test_a_category_that_does_not_count_changes_the_order_and_loses_nothing(run, scores) -> None:
    found = rank_images(run, Ranking(("one",)), 40)
    assert members(found) == [f"{k}.png" for k in np.argsort(-scores[:, 1])]
    with pytest.raises(UserError, match="--without 'on' is no category of these scores; is 'one'"):
        rank_images(run, Ranking(("on",)), 3)
    with pytest.raises(UserError, match="names every category"):
        rank_images(run, Ranking(tuple(CATEGORIES)), 3)


def test_a_decision_puts_its_findings_first_by_probability(tmp_path) -> None:
    run, path = decided_run(tmp_path / "scores", units=2, done=2), tmp_path / "decision.json"
    path.write_bytes(DECISION.to_json())
    decision = read_decision(str(path))
    found = rank_images(run, Ranking(decision=decision), 80)
    parts = [tables.read_part(run, "scores", unit) for unit in tables.done_units(run)]
    rows = apply_to_rows(decision.decision, pa.concat_tables(parts)).to_pylist()
    best = {row["member"]: max(row["score_one"], row["score_two"]) for row in rows}
    with_finding = {row["member"] for row in rows if row["findings"]}
    order = sorted(best, key=lambda member: (member not in with_finding, -best[member]))
    assert members(found) == order
    assert [e.score for e in found.entries] == pytest.approx([best[m] for m in order])
    assert 0 < len(with_finding) < 80
    first = members(rank_images(run, Ranking(("one",), decision), 80))
    of_two = {row["member"] for row in rows if "two" in row["findings"]}
    assert set(first[: len(of_two)]) == of_two
    # The tables that `sdmad apply` writes give the same list, with and without the file.
    apply_decision(str(path), run, str(tmp_path / "decided"))
    for ranking in (Ranking(), Ranking(decision=decision)):
        assert members(rank_images(str(tmp_path / "decided"), ranking, 80)) == order
    path.write_bytes(DECISION.model_copy(update={"labels": "others"}).to_json())
    with pytest.raises(UserError, match="was already decided with"):
        rank_images(str(tmp_path / "decided"), Ranking(decision=read_decision(str(path))), 3)
    path.write_bytes(DECISION.model_copy(update={"detector": "0" * 16}).to_json())
    with pytest.raises(UserError, match="belongs to the detector 0000"):
        rank_images(run, Ranking(decision=read_decision(str(path))), 3)


def test_logits_decide_between_equal_scores(run) -> None:
    tied = {f"{k}.png": 1.0 for k in (3, 30, 17)}
    change(run, "anomaly_score", tied)
    change(run, "score_two", tied)
    change(run, "anomaly_logit", {"3.png": 29.0, "30.png": 31.0, "17.png": 32.0})
    change(run, "logit_two", {"3.png": 30.0, "30.png": 31.0, "17.png": 29.5})
    assert members(rank_images(run, Ranking(), 3)) == ["17.png", "30.png", "3.png"]
    assert members(rank_images(run, Ranking(("one",)), 3)) == ["30.png", "3.png", "17.png"]


def test_tables_of_older_versions_have_no_logit_of_the_anomaly_score(run) -> None:
    change(run, "anomaly_score", {f"{k}.png": 1.0 for k in (3, 30, 17)})
    change(run, "logit_two", {"3.png": 30.0, "30.png": 31.0, "17.png": 29.5})
    for unit in tables.done_units(run):
        table = tables.read_part(run, "scores", unit).drop_columns("anomaly_logit")
        commit_unit(run, unit, table, empty_failures(), {})
    assert members(rank_images(run, Ranking(), 3)) == ["30.png", "3.png", "17.png"]


def test_tables_of_several_versions_are_ranked_together(tmp_path) -> None:
    run = decided_run(tmp_path / "run")
    before = members(rank_images(run, Ranking(), 100))
    for unit in sorted(tables.done_units(run))[1:2]:
        table = tables.read_part(run, "scores", unit).drop_columns("anomaly_logit")
        commit_unit(run, unit, table, empty_failures(), {})
    assert members(rank_images(run, Ranking(), 100)) == before


def test_groups_are_ranked_by_their_highest_image(tmp_path, run, scores) -> None:
    change(run, "findings", {"4.png": ["one"], "5.png": ["two"], "6.png": ["one", "two"]})
    rows = [f"a.tar,{k}.png,{'' if k == 39 else f's{k // 4}'}" for k in range(40)]
    table = Path(tmp_path / "groups.csv")
    table.write_text("\n".join(["archive,member,study_id", *rows]) + "\n")
    found = rank_groups(run, Ranking(), 20, str(table), "study_id")
    known = scores.max(axis=1)
    known[39] = -1
    best = known.reshape(10, 4).max(axis=1)
    order = np.argsort(-best)
    assert [entry.group for entry in found.entries] == [f"s{g}" for g in order]
    assert members(found) == [f"{4 * g + known.reshape(10, 4)[g].argmax()}.png" for g in order]
    (first,) = (entry for entry in found.entries if entry.group == "s1")
    assert (first.images, first.with_findings) == (4, 3)
    assert (found.images, found.groups) == (39, 10)
    assert found.notices == [f"no group in {table} for 1 scored image"]
    found = rank_groups(run, Ranking(("one",)), 20, str(table), "study_id")
    (first,) = (entry for entry in found.entries if entry.group == "s1")
    assert first.with_findings == 2


def test_an_unfinished_run_is_told_and_an_empty_one_refused(run) -> None:
    units = sorted(tables.done_units(run))
    tables.remove_units(run, units[:1])
    assert "is not finished" in rank_images(run, Ranking(), 3).notices[0]
    tables.remove_units(run, units)
    with pytest.raises(UserError, match="has no scores yet"):
        rank_images(run, Ranking(), 3)


def fail(run: str, number: int) -> None:
    """Give a unit `number` failures."""
    unit = min(tables.done_units(run))
    row = dict.fromkeys(empty_failures().schema.names, "x")
    failed = pa.Table.from_pylist([row] * number, empty_failures().schema)
    commit_unit(run, unit, tables.read_part(run, "scores", unit), failed, {})


@pytest.mark.parametrize("counts", [{}, {"units": 1, "failures": 9}, {"units": 2, "failures": 3}])
def test_failures_are_those_of_the_finished_units(run, counts) -> None:
    fail(run, 3)
    write_record(run, {"all_runs": counts})
    notice = "3 images without scores, in the failures of the run, cannot be listed"
    assert rank_images(run, Ranking(), 3).notices == [notice]


def test_a_finished_run_with_failures_only_is_not_called_unfinished(run) -> None:
    for unit in tables.done_units(run):
        none = tables.read_part(run, "scores", unit).slice(0, 0)
        commit_unit(run, unit, none, empty_failures(), {})
    fail(run, 2)
    with pytest.raises(UserError, match="the run is finished, with 2 failures"):
        rank_images(run, Ranking(), 3)
