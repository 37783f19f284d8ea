"""The console command `sdmad`, with all commands.

sdmad --help
sdmad score --help
"""

from importlib.metadata import version
from typing import Annotated

import typer

from sdmad.commands.aggregate import aggregate
from sdmad.commands.apply import apply
from sdmad.commands.calibrate import calibrate
from sdmad.commands.compare import compare
from sdmad.commands.convert import convert
from sdmad.commands.demo import demo
from sdmad.commands.encode import encode
from sdmad.commands.evaluate import evaluate
from sdmad.commands.labels import import_labels
from sdmad.commands.plan import plan
from sdmad.commands.pretrain_backbone import pretrain_backbone
from sdmad.commands.save_backbone import save_backbone
from sdmad.commands.score import score
from sdmad.commands.similar import similar
from sdmad.commands.status import status
from sdmad.commands.suggest import suggest
from sdmad.commands.summary import summary
from sdmad.commands.train import train
from sdmad.commands.verify import verify
from sdmad.commands.worklist import worklist
from sdmad.commands.write_signs import write_signs
from sdmad.runtime.cli import run_app

COMMANDS = (
    demo,
    convert,
    write_signs,
    train,
    encode,
    score,
    status,
    verify,
    worklist,
    aggregate,
    evaluate,
    summary,
    suggest,
    calibrate,
    apply,
    compare,
    similar,
    plan,
    save_backbone,
    pretrain_backbone,
)
LABEL_COMMANDS = {"import": import_labels}
"""The commands under `sdmad labels`."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
labels = typer.Typer(no_args_is_help=True, help="Turn labels from elsewhere into a label table.")
for verb, subcommand in LABEL_COMMANDS.items():
    labels.command(verb)(subcommand)
app.add_typer(labels, name="labels")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sdmad {version('sdmad')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Find several anomalies in medical images from a few labelled examples of each.

    Usual order: train, score, verify, evaluate; `demo` runs all four on
    synthetic images. Research software, not a medical device.
    """


def main() -> None:
    """Entry point of the installed package."""
    run_app(app)
