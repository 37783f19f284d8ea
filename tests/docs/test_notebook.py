"""docs/library.ipynb: its code cells run in order, and its stored outputs are of today's shape."""

import json
import re

import pandas as pd
from PIL import Image

from sdmad.scores import Scores
from tests.helpers import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "library.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_cells_run(training_run, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "train").symlink_to(training_run)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for cell in CODE:
        exec("".join(cell["source"]), scope)  # noqa: S102 - the notebook is ours
    assert isinstance(scope["scores"], Scores)
    assert isinstance(scope["table"], pd.DataFrame)
    assert len(scope["table"]) == len(scope["scores"]) == 100
    assert scope["maps"].shape == (1, 1, 8, 8)
    assert "(2, 64, 64, 3) uint8" in capsys.readouterr().out
    drawn = scope["draw_map"](scope["detector"], scope["image"], scope["maps"][0, 0])
    assert isinstance(drawn, Image.Image)


def test_it_is_a_notebook_with_an_output_for_each_cell_that_shows_something() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(cell["outputs"] for cell in CODE)


def test_its_links_lead_somewhere() -> None:
    text = "".join(
        "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown"
    )
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all((ROOT / "docs" / link).is_file() for link in links)
