"""`sdmad convert`, and jobs/convert_dataset.py as a user runs it."""

from sdmad.commands.convert import convert
from sdmad.inputs.catalog import load_catalog
from sdmad.inputs.labels import load_labels
from sdmad.recipes.registry import RECIPES
from tests.helpers import run_command, run_job
from tests.recipes import trees


def options(recipe: str, source: object, output: object) -> tuple[object, ...]:
    return ("--recipe", recipe, "--source", source, "--output", output)


def test_a_conversion_prints_what_it_wrote_and_what_it_left_out(tmp_path) -> None:
    """The job in a process of its own."""
    source = trees.chest_xray(tmp_path / "download")
    result = run_job("convert_dataset", *options("chest_xray", source, tmp_path / "archive"))
    assert result.returncode == 0, result.stderr
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:4]
        for line in result.stdout.splitlines()
        if line.count("│") == 4
    }
    counts = {name: [int(cell) for cell in cells] for name, cells in rows.items()}
    assert counts["cardiomegaly"] == [2, 0]
    assert counts["hernia"] == [0, 1]
    assert counts["normal"] == [1, 1]
    assert counts["images"] == [3, 2]
    assert counts["patients"] == [2, 2]
    assert "left out, not in the download: 1" in result.stdout
    assert "wrote 5 images in 1 shard" in result.stdout
    categories = load_catalog("chest_xray").category_names
    assert len(load_labels(str(tmp_path / "archive/labels.csv"), categories)) == 5


def test_the_error_for_an_unknown_recipe_lists_all_recipes(tmp_path) -> None:
    result = run_command(convert, *options("knee", tmp_path, tmp_path / "archive"))
    assert result.returncode == 2
    assert all(f"{r.name} ({r.download})" in result.stderr for r in RECIPES.values())


def test_user_errors_are_one_line(tmp_path) -> None:
    source = trees.chest_xray(tmp_path / "download")
    taken = tmp_path / "taken"
    trees.image(taken / "1.png")
    for recipe, place, output, part in (
        ("knee", source, tmp_path / "a", "there is no recipe 'knee'; choose one of brain_mri "),
        ("fundus", source, tmp_path / "a", "the layout should be full_df.csv"),
        ("fundus", tmp_path / "nowhere", tmp_path / "a", "there is no folder"),
        ("chest_xray", source, taken, "is not empty: it contains 1.png"),
    ):
        result = run_command(convert, *options(recipe, place, output))
        assert result.returncode == 2
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert part in lines[0]
    assert not list((tmp_path / "a").glob("*")), "nothing is written before the layout is checked"
