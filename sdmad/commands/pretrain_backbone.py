"""Train the embedded backbone on synthetic phantoms.

sdmad pretrain-backbone --output sdmad/phantoms/weights
"""

from pathlib import Path
from typing import Annotated

import typer

from sdmad.runtime.cli import say


def pretrain_backbone(
    output: Annotated[Path, typer.Option(help="Folder for the open_clip checkpoint.")],
    steps: Annotated[int, typer.Option(help="Number of optimiser steps.", min=2)] = 1600,
    workers: Annotated[int, typer.Option(help="Number of Ray Train workers.", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Random seed of weights and phantoms.")] = 0,
) -> None:
    """Train the embedded backbone on synthetic phantoms.

    The weights shipped with sdmad come from this command. Takes 20 minutes on
    two cores.
    """
    from sdmad.phantoms.pretraining import PretrainConfig, pretrain

    pretrain(PretrainConfig(steps=steps, workers=workers, seed=seed), output)
    say(f"wrote {output}")
