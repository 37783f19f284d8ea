"""Train the embedded backbone on phantoms with Ray Train; the shipped weights come from this.

sdmad pretrain-backbone --output sdmad/phantoms/weights
"""

from pathlib import Path
from typing import Annotated

import typer


def pretrain_backbone(
    output: Annotated[Path, typer.Option(help="Directory for the open_clip checkpoint.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=2)] = 1600,
    workers: Annotated[int, typer.Option(help="Ray Train workers.", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Seed of weights and phantoms.")] = 0,
) -> None:
    """Train the embedded backbone on phantoms of the seen organs (20 minutes on two cores)."""
    from sdmad.phantoms.pretraining import PretrainConfig, pretrain

    pretrain(PretrainConfig(steps=steps, workers=workers, seed=seed), output)
    typer.echo(f"wrote {output}")
