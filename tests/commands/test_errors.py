"""Mistakes of the user: one sentence that says what to do, exit code 2, before any work starts.

Commands run in this process, through the code that every job goes through; `test_app.py` and
`tests/recipes/test_job.py` run them as programs.
"""

import inspect
from pathlib import Path
from typing import get_args

import pytest
import yaml

from sdmad.commands.app import COMMANDS
from sdmad.commands.demo import demo
from sdmad.commands.evaluate import evaluate
from sdmad.commands.score import score
from sdmad.commands.train import train
from sdmad.commands.verify import verify
from tests.helpers import run_command

CONFIG = {"archive": "ARCHIVE", "labels": "LABELS", "catalog": "phantoms", "shots": [2]}


def write_config(tmp_path: Path, archive: Path, changes: dict[str, object]) -> Path:
    content = CONFIG | {"archive": str(archive), "labels": str(archive / "labels.csv")} | changes
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def expect(result, *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"lerner": {}}, ["unknown key 'lerner'", "is 'learner' meant"]),
        ({"learner": {"prevalence": {"tumor": 0.1}}}, ["'tumor'", "its categories are"]),
        (
            {"learner": {"prevalence": {"calcinosis": 0.1}}},
            ["states no share for", "one for each category"],
        ),
        ({"learner": {"anomaly_prevalence": 0.1}}, ["needs learner.prevalence"]),
        (
            {"learner": {"prevalence": 0.2, "anomaly_prevalence": 0.1}},
            ["anomaly_prevalence is 0.1, but more images than that show"],
        ),
        (
            {"learner": {"prevalence": 0.02, "anomaly_prevalence": 0.9}},
            ["anomaly_prevalence is 0.9, but the shares of all categories add up to 0.12"],
        ),
        ({"learner": {"adapter": {"image": {"blocks": -1}}}}, ["learner.adapter.image.blocks"]),
        ({"archive": "nowhere/at/all"}, ["there is no archive at", "nowhere/at/all"]),
        ({"archive": "s3://no-such-bucket/x"}, ["bucket 'no-such-bucket' does not exist"]),
        ({"catalog": "fundus"}, ["line ", "no category of the catalog is called"]),
        ({"shots": [190]}, ["190 shots need 190 images of"]),
        ({"backbone": "phantom"}, ["backbone must have keys, as in backbone: {model: ...}"]),
        ({"learner": 3}, ["learner must have keys, as in learner: {", "not 3"]),
        ({"backbone": {"model": "ViT-Z"}}, ["open_clip has no model 'ViT-Z'"]),
        ({"backbone": {"model": "ViT-B-32"}}, ["needs weights", "openai"]),
        (
            {"backbone": {"model": "ViT-B-32", "pretrained": "x.pt"}},
            ["there are no weights 'x.pt'"],
        ),
        ({"seeds": "8:0"}, ["seeds '8:0'"]),
        (
            {"learner": {"adapter": {"text": {"blocks": 5}}}},
            ["learner.adapter.text.blocks is 5", "has 4"],
        ),
        ({"labels": "/"}, ["there is no label table"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_training(tmp_path, archive, s3, changes, parts) -> None:
    config = write_config(tmp_path, archive, changes)
    output = tmp_path / "out"
    expect(run_command(train, "--config", config, "--output", output), *parts)
    assert not output.exists(), "a failed command leaves no folder"


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_this_machine_has(tmp_path, archive) -> None:
    config = write_config(tmp_path, archive, {"compute": {"workers": 64}})
    result = run_command(train, "--config", config, "--output", tmp_path / "out")
    expect(result, "64 workers need 64 CPUs")


def test_the_demo_refuses_folders_with_other_files(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    expect(run_command(demo, "--output", tmp_path), "is not empty and was not made by the demo")
    assert (tmp_path / "thesis.txt").exists()


def test_missing_configuration(tmp_path) -> None:
    result = run_command(train, "--config", "no.yaml", "--output", tmp_path)
    expect(result, "there is no configuration no.yaml")


@pytest.mark.parametrize(
    ("archive_uri", "detector", "parts"),
    [
        ("nowhere", None, ["there is no archive at"]),
        ("s3://no-such-bucket/x", None, ["bucket 'no-such-bucket' does not exist"]),
        (None, "nowhere", ["there is no detector at", "`sdmad train`"]),
    ],
)
def test_scoring(tmp_path, archive, training_run, s3, archive_uri, detector, parts) -> None:
    result = run_command(
        score,
        *("--archive", archive_uri or archive),
        *("--detector", detector or training_run),
        *("--output", tmp_path / "out"),
    )
    expect(result, *parts)
    assert not (tmp_path / "out").exists(), "a failed command leaves no folder"


@pytest.mark.usefixtures("ray_cluster")
def test_a_detector_with_more_cpus_than_this_machine_has(tmp_path, archive, training_run) -> None:
    result = run_command(
        *(score, "--archive", archive, "--detector", training_run),
        *("--output", tmp_path / "out", "--detector-cpus", "4096"),
    )
    expect(result, "1 detector and one reader need 4096", "less to each")


def test_evaluation_and_verification_without_a_scoring_run(tmp_path, archive) -> None:
    labels = archive / "labels.csv"
    nothing, output = tmp_path / "nothing", tmp_path / "out"
    result = run_command(evaluate, "--scores", nothing, "--labels", labels, "--output", output)
    expect(result, "there is no scoring run at", "`sdmad score`")
    assert not output.exists(), "a failed command leaves no folder"
    result = run_command(verify, "--archive", archive, "--scores", tmp_path)
    expect(result, "there is no scoring run at")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_help_explains_each_command(command) -> None:
    """What a command does, and what each of its options is for."""
    result = run_command(command, "--help")
    assert result.returncode == 0
    text = " ".join(result.stdout.replace("│", " ").split())
    assert " ".join(command.__doc__.split("\n\n")[0].split()) in text
    for option in inspect.signature(command).parameters.values():
        (help_,) = (extra.help for extra in get_args(option.annotation)[1:])
        assert help_
        assert f"--{option.name.replace('_', '-')}" in text
