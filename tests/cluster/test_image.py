"""cluster/Dockerfile: hadolint accepts it, its files exist, and the manifests fit it."""

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from tests.cluster.kustomize import render
from tests.helpers import ROOT

MANIFESTS = render(ROOT / "cluster/kubernetes/base")
JOBS = [m for m in MANIFESTS if m["kind"] == "RayJob"]
CLUSTERS = [m["spec"] for m in MANIFESTS if m["kind"] == "RayCluster"]
DOCKERFILE = ROOT / "cluster/Dockerfile"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of each line, in order; continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(w, rest) for w, _, rest in (s.partition(" ") for s in whole.splitlines() if s)]


def arguments(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for word, rest in instructions if word == name]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    said = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")


def test_everything_copied_exists_and_is_not_ignored(instructions: list[tuple[str, str]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    sources = {s for line in arguments(instructions, "COPY") for s in line.split()[:-1]}
    assert sources == {entry.removeprefix("!") for entry in ignored if entry.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)
    assert not arguments(instructions, "ADD")


def test_containers_run_as_the_user_of_the_manifests(instructions: list[tuple[str, str]]) -> None:
    """By number: the kubelet cannot tell whether a user's name is root."""
    users = {
        cluster["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"]
        for cluster in CLUSTERS
    }
    assert {int(user) for user in arguments(instructions, "USER")} == users


def test_jobs_are_where_the_manifests_call_them(instructions: list[tuple[str, str]]) -> None:
    [folder] = arguments(instructions, "WORKDIR")
    copied = dict(line.split() for line in arguments(instructions, "COPY") if line.count(" ") == 1)
    for job in JOBS:
        script = PurePosixPath(job["spec"]["entrypoint"].split()[1])
        assert script.is_relative_to(f"{folder}/{copied['jobs']}")
        assert (ROOT / "jobs" / script.name).exists()


def test_image_and_aws_nodes_install_with_the_same_uv() -> None:
    versions = [
        set(re.findall(r"uv==([\d.]+\d)", path.read_text()))
        for path in (DOCKERFILE, ROOT / "ray_cluster.yaml")
    ]
    assert len(versions[0]) == 1
    assert versions[0] == versions[1]
