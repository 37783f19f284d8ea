"""The commands of the pages: jobs, options, calls and files that exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import yaml
from botocore import xform_name
from ray.scripts.scripts import cli as ray_cli

from sdmad.commands.app import app
from tests.cluster.helpers import exported_metrics, image_tag, parse_command, parse_job
from tests.cluster.kustomize import render
from tests.docs.pages import PAGES, commands, first_column
from tests.helpers import ROOT

CLUSTER_PAGES = [
    f"docs/{name}.md" for name in ("aws", "kubernetes", "monitoring", "sizing", "troubleshooting")
]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_jobs_have_the_options_given_to_them(page: str) -> None:
    for line in commands(page):
        if "..." in line:
            continue
        if called := re.search(r"python (?:/opt/sdmad/)?jobs/(\w+)\.py (.*)", line):
            parse_job(called[1], shlex.split(called[2], comments=True))
        elif called := re.match(r"sdmad ([\w-]+) (.*)", line):
            parse_command(called[1], shlex.split(called[2], comments=True))


@pytest.mark.parametrize("page", CLUSTER_PAGES)
def test_ray_has_the_commands_and_their_options(page: str) -> None:
    for line in commands(page):
        if not line.startswith("ray ") or "..." in line:
            continue
        name, *arguments = shlex.split(re.sub(r" [&>].*", "", line), comments=True)
        command: click.Command = ray_cli
        while isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.commands[name]
        command.make_context(name, arguments)


def test_aws_has_the_calls_with_their_parameters_and_answers() -> None:
    """Against botocore's models; `aws s3` and `aws ec2 wait` are not in them."""
    session = botocore.session.get_session()
    shorthands = {"protocol", "port", "cidr", "source-group"}  # of the command line only
    text = "\n".join(line for page in CLUSTER_PAGES for line in commands(page))
    calls = re.findall(r"\baws ([\w-]+) ([\w-]+)((?:(?!\baws )[^\n|)])*)", text)
    for service, name, rest in calls:
        if service == "s3" or name in ("wait", "get-login-password"):
            continue
        model = session.get_service_model({"s3api": "s3"}.get(service, service))
        operations = {xform_name(n, "-"): n for n in model.operation_names}
        operation = model.operation_model(operations[name])
        taken = operation.input_shape.members if operation.input_shape else {}
        options = set(re.findall(r" --([a-z-]+)", rest)) - {"query", "output"}
        known = {xform_name(member, "-") for member in taken} | (
            shorthands if name.startswith("authorize") else set()
        )
        assert options <= known, (service, name)
        shape = operation.output_shape
        for field in "".join(re.findall(r"--query (\w[\w.]*)", rest)).split("."):
            assert not field or field in shape.members, (name, field)
            shape = shape.members[field] if field else shape
    assert len(calls) > 30


def test_parts_and_jobs_on_kubernetes_exist() -> None:
    label = "app.kubernetes.io/component"
    text = "\n".join((ROOT / page).read_text() for page in CLUSTER_PAGES)
    manifests = render(ROOT / "cluster/kubernetes/overlays/gpu")
    parts = {m["metadata"]["labels"][label]: m["metadata"]["name"] for m in manifests}
    assert set(re.findall(rf"{label}=(\w+)", text)) == set(parts)
    jobs = re.findall(r"job-name=([\w-]+)|delete rayjob -n sdmad ([\w-]+)", text)
    assert {a or b for a, b in jobs} == {parts["training"], parts["scoring"]}


def test_the_image_is_built_with_the_tag_of_the_manifests() -> None:
    [image] = [line for line in commands("docs/kubernetes.md") if line.startswith("IMAGE=")]
    assert image.endswith(f"/sdmad:{image_tag()}")


def test_every_statement_of_the_policies_is_explained() -> None:
    explained = {
        name for cell in first_column("docs/aws.md", "Rights") for name in re.findall(r"\w+", cell)
    }
    for name in ("iam-policy.json", "iam-launcher-policy.json"):
        policy = json.loads((ROOT / "cluster" / name).read_text())
        assert {statement["Sid"] for statement in policy["Statement"]} <= explained


def test_the_metrics_described_are_those_of_a_run() -> None:
    described = first_column("docs/monitoring.md", "Metrics")
    assert {name.strip("`") for name in described} == set(exported_metrics())


def test_panels_that_are_named_exist() -> None:
    dashboard = json.loads((ROOT / "cluster/grafana.json").read_text())
    named = re.findall(r"(?<!\*)\*([A-Z][^*]+)\*", (ROOT / "docs/troubleshooting.md").read_text())
    assert named
    assert set(named) <= {panel["title"] for panel in dashboard["panels"]}


@pytest.mark.skipif(sys.platform != "linux", reason="the page says GNU sed")
def test_the_sed_commands_fill_in_every_file(tmp_path: Path) -> None:
    given = {
        "ARCHIVE": "images",
        "OUTPUT": "results",
        "ACCOUNT": "123456789012",
        "AMI": "ami-1",
        "SG": "sg-1",
        "SUBNET_A": "subnet-1",
        "SUBNET_B": "subnet-2",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    shutil.copy(ROOT / "ray_cluster.yaml", tmp_path)
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    steps = [line for line in commands("docs/aws.md") if line.startswith("sed ")]
    subprocess.run(
        ["bash", "-euc", "\n".join(steps)], cwd=tmp_path, env=os.environ | given, check=True
    )
    files = [tmp_path / "ray_cluster.yaml", *tmp_path.glob("cluster/*.json")]
    files += (tmp_path / "cluster/kubernetes").rglob("*.yaml")
    for path in files:
        rest = re.sub(r"^#.*$", "", path.read_text(), flags=re.M)
        assert "REPLACE" not in rest, path
        assert "us-east-1" not in rest, path
    cluster: dict[str, Any] = yaml.safe_load((tmp_path / "ray_cluster.yaml").read_text())
    head = cluster["available_node_types"]["head"]["node_config"]
    assert cluster["provider"]["region"] == "eu-central-1"
    assert head["SubnetIds"] == ["subnet-1", "subnet-2"]
    assert (head["ImageId"], head["SecurityGroupIds"]) == ("ami-1", ["sg-1"])
    launcher = (tmp_path / "cluster/iam-launcher-policy.json").read_text()
    assert "arn:aws:ec2:eu-central-1:123456789012:subnet/subnet-2" in launcher
    assert "arn:aws:iam::123456789012:role/sdmad-worker" in launcher
    manifests = str(render(tmp_path / "cluster/kubernetes/overlays/gpu"))
    assert "123456789012.dkr.ecr.eu-central-1.amazonaws.com/sdmad:" in manifests
    assert "arn:aws:iam::123456789012:role/sdmad-pods" in manifests
    assert "--archive s3://images/archive" in manifests


def test_every_command_is_in_the_documentation() -> None:
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    for command in app.registered_commands:
        assert re.search(rf"\bsdmad {command.name}(?![\w-])", text), command.name
