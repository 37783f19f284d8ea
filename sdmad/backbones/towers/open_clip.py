"""open_clip's own transformers: CLIP, LAION, CoCa, CLIPA, and the text towers of SigLIP and EVA."""

from dataclasses import replace
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer, text_global_pool
from torch import nn

from sdmad.backbones.towers.base import Activations, ImageTower, TextTower


class OpenClipImageTower(ImageTower):
    """open_clip's own vision transformer."""

    def __init__(self, visual: VisionTransformer) -> None:
        transformer = visual.transformer
        super().__init__(visual, transformer.resblocks, transformer.width, class_tokens=1)

    @property
    def reads_first_token(self) -> bool:
        return self.visual.attn_pool is None and self.visual.pool_type == "tok"

    def read_token(self, index: int, activations: Activations) -> torch.Tensor | None:
        block = self.blocks[index]
        if not self.reads_first_token or not isinstance(block, ResidualAttentionBlock):
            return None
        first = torch.zeros(len(activations.f_in), dtype=torch.long)
        return _token(block, activations.f_in, first)

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        pooled, _ = self.visual._pool(tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


class OpenClipTextTower(TextTower):
    """open_clip's text transformer, part of `CLIP` or a module of its own (`CustomTextCLIP`)."""

    def __init__(self, clip: Any) -> None:
        text = clip.text if hasattr(clip, "text") else clip
        super().__init__(text.transformer.resblocks, text.transformer.width)
        self.clip = clip
        self.text = text
        self.pool_type = getattr(text, "text_pool_type", None) or text.pool_type
        self.eos_id = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None)
        self.class_token = getattr(text, "cls_emb", None) is not None

    def encode(self, inputs: torch.Tensor) -> Any:
        return self.clip.encode_text(inputs) if self.text is self.clip else self.text(inputs)

    def describe(self, inputs: torch.Tensor, captured: Activations) -> Activations:
        length = captured.f_in.shape[1]
        if self.class_token or self.pool_type == "last":
            read = torch.full((len(inputs),), length - 1)
        elif self.pool_type == "first":
            read = torch.zeros(len(inputs), dtype=torch.long)
        else:
            # Where text_global_pool would look, found by pooling the positions themselves.
            positions = torch.arange(length, device=inputs.device).expand(len(inputs), length)
            read = text_global_pool(positions[..., None], inputs, self.pool_type, self.eos_id)[:, 0]
        return self.without_padding(replace(captured, read=read))

    def length(self, activations: Activations) -> int:
        mask = activations.call[1].get("attn_mask")
        if mask is None or mask.dim() != 2 or activations.read is None:
            return super().length(activations)
        # Causal attention: tokens behind the last one that is read change nothing.
        return int(activations.read.max()) + 1

    def read_token(self, index: int, activations: Activations) -> torch.Tensor | None:
        block, read = self.blocks[index], activations.read
        if read is None or not isinstance(block, ResidualAttentionBlock):
            return None
        mask = activations.call[1].get("attn_mask")
        if mask is not None:
            heads = block.attn.num_heads
            of_head = read.repeat_interleave(heads)
            # (T, T), or (B x heads, T, T) where a class token attends to no padding.
            rows = mask[of_head] if mask.dim() == 2 else mask[torch.arange(len(mask)), of_head]
            mask = rows[:, None]
        return _token(block, activations.f_in, read, mask)

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        if activations.read is None:
            raise AssertionError("text activations always know the token that is read")
        rows = torch.arange(len(tokens), device=tokens.device)
        pooled = self.text.ln_final(tokens[rows, activations.read])
        projection = self.text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _token(
    block: ResidualAttentionBlock,
    tokens: torch.Tensor,
    read: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Output (B, 1, D) of a block for one token of each input (B, T, D), at `read` (B,).

    `mask` (B x heads, 1, T) is added to the attention of these tokens.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    every = block.ln_1(tokens)
    own = every[rows, read][:, None]
    attended = block.attention(q_x=own, k_x=every, v_x=every, attn_mask=mask)
    token = tokens[rows, read][:, None] + block.ls_1(attended)
    return token + block.ls_2(block.mlp(block.ln_2(token)))
