"""Save a backbone as a folder that loads without internet.

sdmad save-backbone --model hf-hub:organisation/name --output s3://bucket/backbones/name
"""

from typing import Annotated

import typer

from sdmad.runtime.cli import say


def save_backbone(
    model: Annotated[
        str, typer.Option(help="Name of an open_clip model, hf-hub:organisation/name, or a folder.")
    ],
    output: Annotated[str, typer.Option(help="Folder to write: path or s3:// URI.")],
    pretrained: Annotated[
        str | None,
        typer.Option(help="Weights of an open_clip model: a tag or a checkpoint file."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
) -> None:
    """Save a backbone as a folder that loads without internet.

    Run it on a machine with internet. The folder holds configuration,
    weights and tokenizer.
    """
    from sdmad import storage
    from sdmad.backbones.config import BackboneConfig
    from sdmad.backbones.saving import save_backbone as save

    target = storage.resolve(output)
    identity = save(BackboneConfig(model=model, pretrained=pretrained), target, half)
    say(f"saved the weights {identity.weights} with activation {identity.activation}")
    say(f"use them in a configuration as backbone: {{model: {target}}}")
