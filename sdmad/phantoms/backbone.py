"""The embedded backbone: an open_clip model of about two million parameters for 64-pixel images.

The image tower is a timm vision transformer with a convolution stem, registered with timm under
`sdmad_phantom_vit`; the text tower is open_clip's own, over the first merges of CLIP's byte-pair
vocabulary. `weights/` has the layout of an open_clip `local-dir:` checkpoint.
"""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

WEIGHTS = Path(__file__).parent / "weights"
MERGES = "merges.txt.gz"
NUM_MERGES = 1500
CONTEXT_LENGTH = 40
# What timm passes to every architecture, for those whose weights it downloads.
TIMM_LOADING = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")

PREPROCESS: dict[str, Any] = {
    "mean": [0.3] * 3,
    "std": [0.2] * 3,
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 64,
        "timm_model_name": "sdmad_phantom_vit",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 512 + NUM_MERGES + 2,
        "width": 128,
        "heads": 4,
        "layers": 4,
    },
}


class ConvStem(nn.Module):
    """Three strided convolutions in place of a patch embedding: (B, 3, H, W) -> (B, HW/64, dim)."""

    def __init__(self, img_size: int = 64, embed_dim: int = 128, **_: Any) -> None:
        super().__init__()
        widths = (3, 24, 48, embed_dim)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.num_patches = (img_size // 8) ** 2
        self.grid_size = (img_size // 8, img_size // 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


@register_model
def sdmad_phantom_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Blocks of width 128 over an 8 x 8 grid. `pretrained` is ignored: see `weights/`."""
    return transformer_behind(ConvStem, size=64, patch_size=8, width=128, settings=kwargs)


def transformer_behind(
    stem: Callable[..., nn.Module], size: int, patch_size: int, width: int, settings: dict[str, Any]
) -> VisionTransformer:
    """Six blocks of `width` behind a stem that makes tokens of images of `size` pixels.

    Positions are learned; there is no class token. `settings` are timm's for the model, and take
    precedence.
    """
    own: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch_size,
        "embed_dim": width,
        "depth": 6,
        "num_heads": 4,
        "embed_layer": stem,
        "class_token": False,
        "global_pool": "avg",
    }
    given = {key: value for key, value in settings.items() if key not in TIMM_LOADING}
    model: Any = VisionTransformer(**(own | given))
    model.default_cfg = {"input_size": (3, size, size), "pool_size": None}
    return model


def write_merges(path: Path) -> None:
    """Write the first `NUM_MERGES` merges of CLIP's vocabulary, in the file format of open_clip."""
    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")
    # mtime=0 gives the same bytes on every run.
    path.write_bytes(gzip.compress("\n".join(lines[: NUM_MERGES + 1]).encode(), mtime=0))


def load_tokenizer(directory: Path = WEIGHTS) -> SimpleTokenizer:
    return SimpleTokenizer(bpe_path=str(directory / MERGES), context_length=CONTEXT_LENGTH)
