"""Cells name the code that made them, and the user is told of cells that other code made."""

import inspect
import re
from pathlib import Path

import pyarrow as pa
import pytest

from sdmad.activations import Layout
from sdmad.comparison import code
from sdmad.comparison.catalogs import plant_wrong_signs
from sdmad.comparison.config import Variant
from sdmad.evaluation.protocols import multilabel_prediction
from sdmad.fitting.encoded import Chosen
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.support import draw_support
from sdmad.method.augment import augment
from sdmad.phantoms.backbone import ConvStem


def test_a_cell_names_the_present_code() -> None:
    cell = pa.table({"value": [1.0]})
    assert code.made_by(cell) == ""
    assert code.made_by(code.stamped(cell)) == code.present()
    assert re.fullmatch(r"\S+ \([0-9a-f]{8}\)", code.present())


def test_the_code_changes_with_what_fits_and_measures(tmp_path, monkeypatch) -> None:
    for name in ("method/probe.py", "comparison/cell.py", "comparison/pages.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/protocols.py").write_text("")
    monkeypatch.setattr(code, "PARTS", ("method", "comparison/cell.py", "evaluation/protocols.py"))
    monkeypatch.setattr(code, "__file__", str(tmp_path / "comparison/code.py"))
    found = []
    for name in ("comparison/pages.py", "method/probe.py", "comparison/cell.py"):
        code.present.cache_clear()
        before = code.present()
        (tmp_path / name).write_text("x = 2")
        code.present.cache_clear()
        found.append(code.present() != before)
    code.present.cache_clear()
    assert found == [False, True, True]


@pytest.mark.parametrize(
    "part",
    [
        *(Variant, plant_wrong_signs),  # the settings of a variant, its signs
        *(SupportRef, draw_support, augment),  # the images of a support, their views
        *(Chosen, Layout),  # the same from stored activations
        *(ConvStem, multilabel_prediction),
    ],
)
def test_it_is_that_of_all_that_a_cell_depends_on(part) -> None:
    assert Path(inspect.getfile(part)) in code.sources()


def test_the_user_is_told_how_many_cells_are_of_other_code(monkeypatch) -> None:
    monkeypatch.setattr(code, "present", lambda: "0.2.0 (aaaaaaaa)")
    assert code.sentence(["0.2.0 (aaaaaaaa)"] * 3, "cells") == ""
    told = code.sentence(["0.2.0 (aaaaaaaa)", "0.1.0 (bbbbbbbb)", ""], "runs/x/cells")
    assert told == (
        "2 of all 3 cells were made by other code than this, 0.2.0 (aaaaaaaa): 1 of unknown code, "
        "1 of 0.1.0 (bbbbbbbb); to compute them again, remove them below runs/x/cells or give "
        "another --output"
    )
