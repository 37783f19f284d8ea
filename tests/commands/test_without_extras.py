"""The package as installed by `pip install sdmad`: without extras and developers' tools."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import ROOT, encoded

BLOCK = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in MISSING
        return None if absent else PathFinder.find_spec(name, path, target)

MISSING = set(sys.argv.pop(1).split(","))
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
SCORE = """
import sdmad
detector = sdmad.Detector.load(sys.argv[1], "cpu")
scores = detector.score([open(sys.argv[2], "rb").read()])
print(sdmad.__file__, *scores.categories[0])
"""


def required(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """The distributions installed with `name`, including itself."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), extras)]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        try:
            wanted = distribution(name).requires or []
        except ModuleNotFoundError:
            continue  # For another platform.
        for requirement in map(Requirement, wanted):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (extras or {""})):
                theirs = frozenset(requirement.extras)
                waiting.append((canonicalize_name(requirement.name), theirs))
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package alone, built from this checkout."""
    folder, source = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("source")
    # A build leaves folders beside what it builds.
    shutil.copytree(ROOT / "sdmad", source / "sdmad", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "pip", "install", "-q", "--no-deps", "--target", folder, source]
    subprocess.run(command, check=True)
    return folder


def run(installed: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    brought = required("sdmad")
    missing = {
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & brought
    }
    missing -= {"libjpeg"}  # pylibjpeg finds it through its entry point and fails without it.
    assert {"moto", "openai", "openpyxl", "pytest"} <= missing
    command = [sys.executable, "-c", BLOCK + script, ",".join(missing), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=installed,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_an_image_is_scored(installed, training_run, tmp_path) -> None:
    from sdmad import Detector

    image = tmp_path / "x.png"
    image.write_bytes(encoded(3))
    result = run(installed, SCORE, training_run, image)
    assert result.returncode == 0, result.stderr
    place, *scores = result.stdout.split()
    assert Path(place).is_relative_to(installed)
    expected = Detector.load(str(training_run), "cpu").score([image.read_bytes()]).categories[0]
    assert np.allclose(np.array(scores, float), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        (["demo"], "moto", "demo"),
        (
            ["write-signs", "--modality", "x", "--categories", "y", "--output", "z"],
            "openai",
            "drafting",
        ),
    ],
)
def test_a_command_that_needs_an_extra_names_it(installed, command, module, extra) -> None:
    result = run(installed, "from sdmad.commands.app import main; main()", *command)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert module in line
    assert f"pip install 'sdmad[{extra}]'" in line
