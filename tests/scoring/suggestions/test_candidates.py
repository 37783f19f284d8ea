"""What is kept of a run's tables."""

import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sdmad.inputs.groups import load_groups
from sdmad.inputs.labels import load_labels
from sdmad.scoring.ranking import ScoredRun
from sdmad.scoring.suggestions.candidates import Highest, Known, collect
from tests.evaluation.test_measure import CATEGORIES, write_run


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(5).random((60, 2)).astype(np.float32)


@pytest.fixture
def run(tmp_path, scores) -> str:
    return write_run(tmp_path / "run", scores[..., None])


def labels(folder: Path, rows: list[str], header: str = "archive,member,patient_id,split,labels"):
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return load_labels(str(path), CATEGORIES, str(folder / "run/archive"))


def members(table: pa.Table) -> set[str]:
    return set(table["member"].to_pylist())


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_the_highest_rows_of_a_stream_are_kept(pieces) -> None:
    keys = np.random.default_rng(3).integers(0, 40, 500) / 4.0
    kept = Highest(30)
    for rows in np.array_split(np.arange(500), pieces):
        kept.add(keys[rows], pa.table({"row": rows}))
    assert kept.rows["row"].to_pylist() == np.argsort(-keys, kind="stable")[:30].tolist()
    assert kept.rows["row"].num_chunks == 1, "memory is that of the rows that are kept"


def test_candidates_are_near_the_threshold_and_labelled_images_are_apart(
    tmp_path, run, scores
) -> None:
    table = labels(tmp_path, [f"a.tar,{k}.png,p{k},pool," for k in (0, 7, 31)])
    found = collect(run, ScoredRun.open(run), 4, Known(table, None))
    assert found.images == 60
    assert members(found.known) == {"0.png", "7.png", "31.png"}
    free = np.setdiff1d(np.arange(60), (0, 7, 31))
    margins = np.abs(scores[free].astype(float) - 0.5)
    nearest = {f"{k}.png" for c in range(2) for k in free[np.argsort(margins[:, c])[:4]]}
    assert nearest <= members(found.table)
    assert not members(found.table) & members(found.known)
    assert found.table.num_rows <= 16
    # Logits of these tables are all 0: the first images in the plan's order are the most likely.
    assert {f"{k}.png" for k in range(30, 36) if k != 31} & members(found.table)


def test_names_are_compared_as_everywhere(tmp_path, run) -> None:
    table = labels(tmp_path, ["./a.tar,./3.png,p,pool,"])
    assert members(collect(run, ScoredRun.open(run), 60, Known(table, None)).known) == {"3.png"}
    accent = "\u00e9.png"
    table = labels(tmp_path, [f"a.tar,{accent},p,pool,"])
    part = pa.table({"archive": ["a.tar"], "member": [unicodedata.normalize("NFD", accent)]})
    assert Known(table, None).labelled(part).tolist() == [True]


def test_patients_of_the_test_split_are_not_asked(tmp_path, run) -> None:
    table = labels(tmp_path, ["a.tar,0.png,p0,test,one", "a.tar,9.png,p4,pool,one"])
    owners = tmp_path / "patients.csv"
    lines = [f"a.tar,{k}.png,p{k // 2}" for k in range(60)]
    owners.write_text("\n".join(["archive,member,patient_id", *lines]) + "\n")
    known = Known(table, load_groups(str(owners), "patient_id", str(tmp_path / "run/archive")))
    found = collect(run, ScoredRun.open(run), 60, known)
    assert members(found.table) == {f"{k}.png" for k in range(2, 60)} - {"9.png"}
    assert found.not_asked == 1
    assert known.patient(("a.tar", "8.png")) == "p4"
    assert known.patient(("b.tar", "8.png")) == ""
