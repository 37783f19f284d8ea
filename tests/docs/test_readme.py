"""README.md: its commands run as they stand, in a clean clone, in the order of the page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sdmad import Detector
from sdmad.commands.app import main
from sdmad.phantoms.task import draw_example
from tests.docs import pages
from tests.helpers import ROOT, captured

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a new user has: the committed files, and nothing else."""
    folder = tmp_path_factory.mktemp("clone") / "sdmad"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", folder], check=True)
    return folder


def run(command: list[str]) -> str:
    """An `sdmad` command in this process, in the folder where it stands."""
    result = captured(main, *command)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def block(start: str) -> str:
    return pages.block("README.md", start)


def keep_few(archive: Path) -> None:
    """One shard of each split is enough here."""
    shards = sorted(archive.glob("*.tar"))
    half = len(shards) // 2
    for shard in shards[1:half] + shards[half + 1 :]:
        shard.unlink()
    kept = {path.name for path in archive.glob("*.tar")}
    head, *rows = (archive / "labels.csv").read_text().splitlines()
    rows = [row for row in rows if row.split(",")[0] in kept]
    (archive / "labels.csv").write_text("\n".join([head, *rows]) + "\n")


@pytest.mark.usefixtures("ray_cluster")
def test_the_lines_of_a_local_folder(clone, monkeypatch) -> None:
    monkeypatch.chdir(clone)
    first, *rest = block("sdmad train").splitlines()
    environment = os.environ | {"PYTHONPATH": str(clone)}
    python = str(BIN / "python")
    subprocess.run([python, *first.split()[1:]], env=environment, check=True, timeout=300)
    keep_few(clone / "runs/phantoms")
    said = {}
    for line in rest:
        command = line.split()
        command += ["--seeds", "0:2"] if command[1] == "train" else []
        said[command[1]] = run(command)
    assert "0 lost, 0 doubled" in said["verify"]
    assert (clone / "runs/report/report.html").is_file()
    fitted = Detector.load(str(clone / "runs/train"))
    assert "name_tumour" in fitted.signs, "names of categories are signs"

    exec(block("import duckdb"), {})  # noqa: S102 - the page is ours
    image = Image.fromarray(draw_example(3, "test", 0).image)
    names = {"image": image}
    exec(block("from sdmad import Detector").replace('"x.png"', "image"), names)  # noqa: S102
    assert len(names["scores"].findings) == 1


def test_the_lines_of_labels_and_configuration_are_valid(tmp_path) -> None:
    from sdmad.fitting.config import TrainConfig, load_config
    from sdmad.inputs.labels import load_labels

    labels = tmp_path / "labels.csv"
    labels.write_text(block("archive,member"))
    table = load_labels(str(labels), ["effusion", "cardiomegaly"], str(tmp_path))
    assert table.labels.tolist() == [[True, True], [False, False]]
    config = tmp_path / "config.yaml"
    config.write_text(block("archive: s3"))
    settings = load_config(str(config), {}, TrainConfig)
    assert settings.backbone.pretrained == "openai"


def test_it_fits_on_three_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
