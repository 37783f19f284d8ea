"""All of it on the embedded default, on this machine: `make demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    shots: Annotated[int, typer.Option(help="Labelled images of each category.", min=1)] = 4,
    seeds: Annotated[int, typer.Option(help="Support draws.", min=2)] = 8,
    images: Annotated[int, typer.Option(help="Phantoms in each of pool and test.", min=100)] = 600,
) -> None:
    """Fit, score an S3 bucket served here, verify, evaluate, and compare with zero-shot."""
    from sdmad.runtime.cli import require_extra

    require_extra("moto", extra="demo")
    from sdmad.demo.run import run_demo
    from sdmad.report.terminal import print_metrics

    result = run_demo(output.resolve(), shots, seeds, images)
    print_metrics(result)
    typer.echo(f"report: {result.report}")
