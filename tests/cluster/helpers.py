"""What the jobs ask of a cluster and report, read from the code; the versions that are pinned."""

import importlib
import re
import tomllib
from typing import Any

import click
import pytest
import typer

from sdmad.commands.app import COMMANDS, LABEL_COMMANDS, app
from sdmad.fitting import run as fitting
from sdmad.fitting.config import TrainConfig
from sdmad.fitting.reading import READER_CPUS
from sdmad.runtime.cluster import Resources
from sdmad.scoring import monitoring
from sdmad.scoring.pools import PipelineConfig
from tests.helpers import ROOT

Request = dict[str, float]


def job_requests(gpus: bool) -> list[Request]:
    """The resources of every task, actor and Ray Train worker of training and scoring."""
    resources = Resources(cpus=64, gpus=8 if gpus else 0)
    config = TrainConfig(archive="a", labels="l", catalog="c")
    scaling = fitting._scaling(config, resources, batches=8)
    requests = [*scoring_requests(PipelineConfig(), resources), scaling.resources_per_worker]
    return [{"CPU": READER_CPUS}, *requests]


def scoring_requests(config: PipelineConfig, resources: Resources) -> list[Request]:
    """A reader's and a detector's resources."""
    filled = config.fill(resources)
    detector = {"CPU": filled.detector_cpus, "GPU": filled.detector_gpus}
    return [{"CPU": filled.reader_cpus}, {name: n for name, n in detector.items() if n}]


def holds(node: dict[str, float], request: Request) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in request.items())


def parse_job(script: str, arguments: list[str]) -> dict[str, Any]:
    """The options of `python jobs/<script>.py`; a click error for what the job does not have."""
    names = vars(importlib.import_module(f"jobs.{script}"))
    for name, command in LABEL_COMMANDS.items():
        if names.get(command.__name__) is command:
            return parse_command("labels", [name, *arguments])
    [command] = [c for c in COMMANDS if names.get(c.__name__) is c]
    return parse_command(command.__name__.replace("_", "-"), arguments)


def parse_command(name: str, arguments: list[str]) -> dict[str, Any]:
    """The options of `sdmad <name>`; a click error for what it does not have."""
    command: click.Command = typer.main.get_command(app).commands[name]
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments).params


def exported_metrics() -> dict[str, set[str]]:
    """The labels of each metric of a scoring run, by the name that a Ray node exports."""
    found: dict[str, set[str]] = {}

    def record(suffix: str) -> Any:
        return lambda name, _, tags: found.update({f"ray_{name}{suffix}": set(tags)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitoring, "Counter", record("_total"))
        patch.setattr(monitoring, "Gauge", record(""))
        monitoring.ScoringMonitor("x")
    return found


def pinned(package: str) -> str:
    """The version of a package in requirements.txt."""
    return re.search(rf"^{package}==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)[1]


def image_tag() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return f"{project['version']}-ray{pinned('ray')}"
