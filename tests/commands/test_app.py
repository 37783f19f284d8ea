"""The console command `sdmad`."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sdmad.commands.app import COMMANDS, LABEL_COMMANDS, main
from sdmad.commands.labels import import_labels
from sdmad.commands.train import train
from tests.helpers import ROOT, captured, run_command

SDMAD = Path(sys.executable).parent / "sdmad"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The installed program in a process of its own, as a shell runs it."""
    environment = os.environ | variables
    command = [SDMAD, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_help_lists_every_command_without_loading_torch() -> None:
    script = (
        "import sys; from sdmad.commands.app import main; sys.argv = ['sdmad', '--help']\n"
        "try: main()\n"
        "finally: print('torch loaded:', 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "torch loaded: False" in result.stdout
    for command in COMMANDS:
        assert re.search(rf"│ {command.__name__.replace('_', '-')} ", result.stdout)


def test_version_prints_the_version_of_the_package() -> None:
    assert captured(main, "sdmad", "--version").stdout.strip() == f"sdmad {version('sdmad')}"


def test_each_job_is_a_command() -> None:
    jobs = [re.search(r"run_command\((\w+)\)", p.read_text()) for p in ROOT.glob("jobs/*.py")]
    commands = [*COMMANDS, *LABEL_COMMANDS.values()]
    assert sorted(job[1] for job in jobs if job) == sorted(c.__name__ for c in commands)


def test_a_mistake_is_answered_by_one_sentence(tmp_path) -> None:
    result = run("convert", "--recipe", "knee", "--source", str(tmp_path), "--output", "x")
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no recipe 'knee'")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_shell_completes_commands() -> None:
    """The request that bash makes for `sdmad ve<TAB>` after `--install-completion`."""
    asked = {"_SDMAD_COMPLETE": "complete_bash", "COMP_WORDS": "sdmad ve", "COMP_CWORD": "1"}
    assert run(**asked).stdout.split() == ["verify"]


def test_paths_are_shown_as_they_were_typed(tmp_path, monkeypatch) -> None:
    """Results on stdout and mistakes on stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filled.csv").write_text("archive,member,split,patient_id,labels\na,b,pool,1,x\n")
    result = run_command(import_labels, "filled.csv", "--output", "new/labels.csv")
    assert result.stdout.splitlines()[-1] == "wrote new/labels.csv with 1 row", result.stderr
    again = run_command(import_labels, "filled.csv", "--output", "new/labels.csv")
    assert again.stderr.startswith("error: new/labels.csv exists; ")


@pytest.mark.parametrize(
    ("shots", "told"),
    [
        ("4", "detector is at runs/x/fits/shots=4"),
        ("1,all", "detectors are at runs/x/fits/shots=1 and runs/x/fits/shots=all"),
        ("malignant=4,default=2", "detector is at runs/x/fits/shots=2.malignant-4"),
    ],
)
def test_training_tells_where_each_detector_is(tmp_path, monkeypatch, shots, told) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdmad.fitting.run.train_seeds", lambda *given: 8)
    Path("c.yaml").write_text("{archive: a, labels: a/labels.csv, catalog: phantoms}")
    result = run_command(train, "--config", "c.yaml", "--output", "runs/x", "--shots", shots)
    assert result.stdout == f"wrote 8 new fits; the {told}\n", result.stderr


def test_commands_tell_everything_through_one_function() -> None:
    """Only the version, and JSON for programs, are printed unchanged."""
    found = {
        (path.name, line.strip())
        for path in ROOT.glob("sdmad/commands/*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\b(print|echo|secho)\(", line)
    }
    assert found == {
        ("app.py", "typer.echo(f\"sdmad {version('sdmad')}\")"),
        ("status.py", 'typer.echo(dumps({"job": job} | content, indent=2))'),
    }
