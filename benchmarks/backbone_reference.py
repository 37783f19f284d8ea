"""Does a backbone give the embeddings that were published beside it?

    python benchmarks/backbone_reference.py FOLDER

FOLDER has `reference.npz`: `pixels` (N, H, W, 3) uint8, `texts`, and unit `image_embeddings` and
`text_embeddings`. Prints the largest difference of both; ends with 1 above `--most`.
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import load_backbone


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the backbone.")],
    most: Annotated[float, typer.Option(help="Largest difference that passes.")] = 1e-5,
) -> None:
    """Load the folder and compare."""
    backbone = load_backbone(BackboneConfig(model=str(folder)), "cpu")
    with np.load(folder / "reference.npz", allow_pickle=False) as known:
        images = backbone.embed_images(known["pixels"]).numpy() - known["image_embeddings"]
        texts = backbone.embed_texts([str(text) for text in known["texts"]]).numpy()
        texts = texts - known["text_embeddings"]
    worst = max(np.abs(images).max(), np.abs(texts).max())
    print(f"images {np.abs(images).max():.1e}, texts {np.abs(texts).max():.1e}")
    sys.exit(int(worst > most))


if __name__ == "__main__":
    typer.run(main)
