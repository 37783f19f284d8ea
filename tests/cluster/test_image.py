"""cluster/Dockerfile: linted by hadolint, run without root, built from files that are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

DOCKERFILE = ROOT / "cluster/Dockerfile"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of each line, in order; continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(w, rest) for w, _, rest in (s.partition(" ") for s in whole.splitlines() if s)]


def arguments(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for word, rest in instructions if word == name]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    said = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")


def test_the_base_image_is_pinned_to_a_patch_release(instructions: list[tuple[str, str]]) -> None:
    [base] = arguments(instructions, "FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_containers_run_without_root(instructions: list[tuple[str, str]]) -> None:
    """By number: the kubelet cannot tell of a name that it is not root."""
    [user] = arguments(instructions, "USER")
    assert instructions[-1] == ("USER", user)
    assert user == "1000"
    assert any(f"useradd --uid {user}" in line for line in arguments(instructions, "RUN"))


def test_what_is_copied_is_there_and_not_ignored(instructions: list[tuple[str, str]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    sources = {s for line in arguments(instructions, "COPY") for s in line.split()[:-1]}
    assert sources == {entry.removeprefix("!") for entry in ignored if entry.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)
    assert not arguments(instructions, "ADD")


def test_jobs_stand_where_the_manifests_call_them(instructions: list[tuple[str, str]]) -> None:
    assert arguments(instructions, "WORKDIR") == ["/opt/sdmad"]
    assert "jobs jobs" in arguments(instructions, "COPY")


def test_packages_are_the_pinned_ones(instructions: list[tuple[str, str]]) -> None:
    """And uv is the one that the nodes of ray_cluster.yaml install with."""
    installs = re.findall(r"pip install .*", "\n".join(arguments(instructions, "RUN")))
    tool, packages, project = installs
    assert "-c requirements.txt -r pyproject.toml" in packages
    assert "--no-deps ." in project
    version = re.search(r"uv==[\d.]+\d", tool)[0]
    assert version in (ROOT / "ray_cluster.yaml").read_text()


def test_there_are_no_secrets(instructions: list[tuple[str, str]]) -> None:
    for word, rest in instructions:
        if word in ("ARG", "ENV"):
            assert not re.search(r"TOKEN|SECRET|PASSWORD|KEY", rest)
