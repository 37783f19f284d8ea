"""The highest images and groups of hand-made score tables, without Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sdmad.errors import UserError
from sdmad.scoring import tables
from sdmad.scoring.ranking import Ranking, rank_groups, rank_images
from sdmad.scoring.tables import commit_unit, empty_failures
from tests.evaluation.test_measure import CATEGORIES, write_run


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


def test_logits_decide_between_equal_scores(run) -> None:
    tied = {f"{k}.png": 1.0 for k in (3, 30, 17)}
    change(run, "anomaly_score", tied)
    change(run, "logit_two", {"3.png": 30.0, "30.png": 31.0, "17.png": 29.5})
    assert members(rank_images(run, Ranking(), 3)) == ["30.png", "3.png", "17.png"]


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
    assert found.notices == [f"no group in {table} for 1 scored image: a.tar/39.png"]
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
