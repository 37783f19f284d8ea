"""Write a backbone as a folder that nodes without internet can load.

sdmad save-backbone --model hf-hub:organisation/name --output s3://bucket/backbones/name
"""

from typing import Annotated

import typer


def save_backbone(
    model: Annotated[
        str, typer.Option(help="A model of open_clip, hf-hub:organisation/name, or a folder.")
    ],
    output: Annotated[str, typer.Option(help="The new folder, a path or s3:// URI.")],
    pretrained: Annotated[
        str | None, typer.Option(help="For a model of open_clip: a tag or a checkpoint file.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights in float16.")] = False,
) -> None:
    """Save configuration, weights and tokenizer of a backbone as one folder.

    Run it where the internet can be reached; what it writes needs no hub.
    """
    from sdmad import storage
    from sdmad.backbones.config import BackboneConfig
    from sdmad.backbones.saving import save_backbone as save

    target = storage.resolve(output)
    identity = save(BackboneConfig(model=model, pretrained=pretrained), target, half)
    typer.echo(f"saved weights {identity.weights}, activation {identity.activation}")
    typer.echo(f"write in a configuration: backbone: {{model: {target}}}")
