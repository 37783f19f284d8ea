"""`sdmad_lite_vit`: a small image tower for real images, registered with timm.

An EfficientNet-Lite0 without head makes 8 x 8 tokens of a 256-pixel image; six transformer blocks
of width 256 follow. Backbones of this shape are loaded from a folder, as any other
(docs/backbones.md).
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from sdmad.phantoms.backbone import transformer_behind

SIZE = 256
STRIDE = 32
# Channels of a token: the last stage, then mean and maximum of the stride-16 stage.
CHANNELS = 320 + 2 * 112


class LiteStem(nn.Module):
    """EfficientNet-Lite0 as a patch embedding: (B, 3, H, W) -> (B, H W / 32^2, embed_dim).

    A token joins the stride-32 features with the mean and the maximum over 2 x 2 of the stride-16
    features.
    """

    def __init__(self, img_size: int = SIZE, embed_dim: int = 256, **_: Any) -> None:
        super().__init__()
        self.net: Any = timm.create_model("tf_efficientnet_lite0")
        for name in ("conv_head", "bn2", "classifier"):
            setattr(self.net, name, nn.Identity())
        self.norm = nn.LayerNorm(CHANNELS)
        self.proj = nn.Linear(CHANNELS, embed_dim)
        self.grid_size = (img_size // STRIDE, img_size // STRIDE)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # In this order of memory the convolutions take a third less time on CPUs.
        images = images.contiguous(memory_format=torch.channels_last)
        x = self.net.bn1(self.net.conv_stem(images))
        for block in self.net.blocks[:5]:
            x = block(x)  # (B, 112, H/16, W/16)
        middle = torch.cat([F.avg_pool2d(x, 2), F.max_pool2d(x, 2)], 1)
        for block in self.net.blocks[5:]:
            x = block(x)  # (B, 320, H/32, W/32)
        tokens = torch.cat([x, middle], 1).flatten(2).transpose(1, 2)
        return self.proj(self.norm(tokens))


@register_model
def sdmad_lite_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Blocks of width 256 over an 8 x 8 grid."""
    if pretrained:
        raise ValueError("sdmad_lite_vit has no weights of its own: load a folder that has them")
    return transformer_behind(LiteStem, SIZE, STRIDE, width=256, settings=kwargs)
