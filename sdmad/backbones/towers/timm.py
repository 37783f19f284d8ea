"""timm image towers in open_clip's wrapper: vision transformers (SigLIP, EVA, PE, ViTamin,
BiomedCLIP), and towers whose last stage is attention over a map (MobileCLIP's FastViT, Swin)."""

from dataclasses import replace
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from timm.models.fastvit import AttentionBlock, FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

from sdmad.backbones.towers.base import Activations, Call, ImageTower

FLAT = (VisionTransformer, VisionTransformerRelPos, Eva)
"""Blocks over tokens, then `norm`, then `forward_head`."""


class TimmImageTower(ImageTower):
    """A timm vision transformer; what stands before its blocks may be convolutions (ViTamin)."""

    def __init__(self, visual: TimmModel) -> None:
        trunk = visual.trunk
        class_tokens = int(getattr(trunk, "num_prefix_tokens", 0))
        super().__init__(visual, trunk.blocks, trunk.embed_dim, class_tokens)

    @property
    def reads_first_token(self) -> bool:
        return str(self.visual.trunk.global_pool) == "token"

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        trunk = self.visual.trunk
        return self.visual.head(trunk.forward_head(trunk.norm(tokens)))


class TimmStageTower(ImageTower):
    """A timm tower of stages, of which the last one is adapted: its tokens are the places of a map.

    Blocks of FastViT take (N, D, H, W), those of Swin (N, H, W, D).
    """

    def __init__(self, visual: TimmModel) -> None:
        trunk = visual.trunk
        self.channels_last = isinstance(trunk, SwinTransformer)
        stages = trunk.layers if self.channels_last else trunk.stages
        width = trunk.feature_info[-1]["num_chs"]
        super().__init__(visual, stages[-1].blocks, width, class_tokens=0)

    @property
    def reads_first_token(self) -> bool:
        return False

    def capture(self, f_in: torch.Tensor, call: Call) -> Activations:
        grid = f_in.shape[1:3] if self.channels_last else f_in.shape[2:]
        tokens = self._tokens(f_in)
        return replace(super().capture(tokens, call), grid=(int(grid[0]), int(grid[1])))

    def run_block(
        self, index: int, tokens: torch.Tensor, activations: Activations, call: Call
    ) -> torch.Tensor:
        maps = self._maps(tokens, activations)
        return self._tokens(super().run_block(index, maps, activations, call))

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        trunk = self.visual.trunk
        after = trunk.norm if self.channels_last else trunk.final_conv
        return self.visual.head(trunk.forward_head(after(self._maps(tokens, activations))))

    def _maps(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        maps = tokens.unflatten(1, activations.grid)
        return maps if self.channels_last else maps.permute(0, 3, 1, 2)

    def _tokens(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(1, 2) if self.channels_last else maps.flatten(2).transpose(1, 2)


def timm_tower(visual: TimmModel) -> ImageTower | None:
    """The tower of a timm model; None for one that does not end in attention blocks."""
    trunk = visual.trunk
    if isinstance(trunk, FLAT):
        return TimmImageTower(visual)
    if isinstance(trunk, SwinTransformer):
        return TimmStageTower(visual)
    if isinstance(trunk, FastVit):
        stages: Any = trunk.stages
        return TimmStageTower(visual) if isinstance(stages[-1].blocks[-1], AttentionBlock) else None
    return None
