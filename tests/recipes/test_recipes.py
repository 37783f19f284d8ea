"""Properties of every recipe."""

from pathlib import Path

import pytest

from sdmad.errors import UserError
from sdmad.fitting.config import TrainConfig, load_config
from sdmad.inputs.catalog import load_catalog
from sdmad.inputs.labels import load_labels
from sdmad.recipes.archive_writer import write_archive
from sdmad.recipes.registry import RECIPES, find_recipe
from tests.helpers import ROOT
from tests.recipes.trees import TREES, image

pytestmark = pytest.mark.parametrize("name", RECIPES)


def test_the_archive_loads_with_the_recipes_catalog(name, tmp_path) -> None:
    records = find_recipe(name).records(TREES[name](tmp_path / "download"))
    write_archive(records, str(tmp_path / "archive"), name)
    categories = load_catalog(find_recipe(name).catalog_name).category_names
    table = load_labels(str(tmp_path / "archive/labels.csv"), categories)
    written = [record for record in records if not record.left_out]
    assert table.member.tolist() == [record.member for record in written]
    assert set(table.split) == {"pool", "test"}
    assert not set(table.patient[table.split == "pool"]) & set(table.patient[table.split == "test"])
    assert table.labels.any(axis=0).sum() >= min(len(categories), 3)
    assert not table.labels.all(axis=1).all()


def test_masks_are_left_out(name, tmp_path) -> None:
    records = find_recipe(name).records(TREES[name](tmp_path))
    assert not [r.member for r in records if "mask" in r.member or "label" in r.member.split("/")]
    assert not [r.member for r in records if "_label/" in r.member]


def test_records_are_the_same_each_time_and_from_an_outer_folder(name, tmp_path) -> None:
    source = TREES[name](tmp_path / "outer" / "download")
    first = find_recipe(name).records(source)
    assert find_recipe(name).records(source) == first
    wrapped = find_recipe(name).records(source.parent)
    assert [r.member for r in wrapped] == [r.member for r in first]
    assert [(r.split, r.patient_id) for r in wrapped] == [(r.split, r.patient_id) for r in first]


def test_the_error_for_another_layout_describes_the_expected_one(name, tmp_path) -> None:
    image(tmp_path / "elsewhere/of/another/kind/1.png")
    with pytest.raises(UserError) as caught:
        find_recipe(name).records(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "the layout should be" in str(caught.value)


def test_a_missing_folder_is_a_user_error(name, tmp_path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        find_recipe(name).records(tmp_path / "nowhere")


def test_there_is_a_configuration_for_the_recipe(name) -> None:
    config = load_config(str(ROOT / "configs" / f"{name}.yaml"), {}, TrainConfig)
    assert config.catalog == find_recipe(name).catalog_name
    assert config.labels == f"{config.archive}/labels.csv"


def test_the_documentation_lists_the_recipe(name) -> None:
    text = Path(ROOT / "docs" / "datasets.md").read_text()
    assert f"`{name}`" in text
