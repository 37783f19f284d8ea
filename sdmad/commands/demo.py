"""Run the whole workflow on synthetic images, on this machine.

sdmad demo --output runs/demo
"""

from pathlib import Path
from typing import Annotated

import typer

from sdmad.runtime.cli import say


def demo(
    output: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("runs/demo"),
    shots: Annotated[
        int, typer.Option(help="Labelled images per category in a support.", min=1)
    ] = 4,
    seeds: Annotated[
        int, typer.Option(help="Number of seeds: random draws of the support.", min=2)
    ] = 8,
    images: Annotated[
        int, typer.Option(help="Synthetic images in the pool, and as many in the test.", min=100)
    ] = 600,
) -> None:
    """Run the whole workflow on synthetic images; ends with a report.

    Serves an S3 bucket on this machine and fills it with phantoms. Fits
    adapters, scores the bucket, verifies and evaluates the scores, and compares
    them with zero-shot CLIP. Needs neither network nor GPU.
    """
    from sdmad.runtime.cli import require_extra

    require_extra("moto", extra="demo")
    from sdmad.demo.run import run_demo
    from sdmad.report.terminal import print_metrics

    result = run_demo(output.resolve(), shots, seeds, images)
    print_metrics(result)
    say(f"report: {result.report}")
