"""The two towers of an open_clip model, split at the first adapted block.

`Tower.prefix` runs the tower's own forward pass and stops at the first adapted block: what lies
below is frozen and the same for every seed, so it is computed once (and cached in training).
`Tower.suffix` runs the adapted blocks for all seeds and the tower's head. Three kinds of tower are
known: open_clip's transformers, timm image towers, Hugging Face text towers (BiomedCLIP is the
latter two).
"""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    ResidualAttentionBlock,
    VisionTransformer,
    text_global_pool,
)
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sdmad.backbones.packed import pack
from sdmad.errors import UserError

BlockAdapter = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From input f_in and frozen output f^_out of one block, (S, B, T, D) or (B, T, D) where all seeds
share them, to its adapted output (S, B, T, D)."""
_NONE = torch.empty(0)
_HOOKS = threading.Lock()  # PyTorch numbers hooks without one.


@dataclass(frozen=True)
class Activations:
    """What the frozen part of a tower hands to the adapted part.

    `f_in` and `f_frozen` are the input and the frozen output of the first adapted block, (B, T, D)
    or, once gathered for each seed, (S, B, T, D). `call` is what the blocks take besides tokens
    (attention masks). `read` (B,) is the only token that the head reads, None when it reads all;
    `mask` (B, T) marks real tokens for heads that average. `patches` (B, D) or (S, B, D) is the
    maximum of `f_in` over all patches; empty for text.
    """

    f_in: torch.Tensor
    f_frozen: torch.Tensor
    call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    read: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    patches: torch.Tensor = _NONE

    def reduced(self) -> "Activations":
        """Only the token that the head reads: exact when no further block mixes tokens."""
        if self.read is None:
            return self
        rows = torch.arange(len(self.read), device=self.read.device)
        return replace(
            self,
            f_in=self.f_in[rows, self.read][:, None],
            f_frozen=self.f_frozen[rows, self.read][:, None],
            read=torch.zeros_like(self.read),
        )

    def for_seeds(self, seeds: int) -> "Activations":
        """The same for a seeds-major batch of S x B rows, as heads see it."""
        read = None if self.read is None else self.read.repeat(seeds)
        mask = None if self.mask is None else self.mask.repeat(seeds, 1)
        return replace(self, read=read, mask=mask)


class _Stop(Exception):
    """Ends a forward pass at the first adapted block."""


def _repeat(value: Any, times: int) -> Any:
    """Attention masks that carry a batch dimension, repeated for seeds-major batches."""
    if isinstance(value, torch.Tensor) and value.dim() > 2 and value.shape[0] > 1:
        return value.repeat(times, *[1] * (value.dim() - 1))
    return value


class Tower(ABC):
    """One encoder: `blocks` are its transformer layers, `width` their token width D."""

    def __init__(self, blocks: nn.ModuleList, width: int) -> None:
        self.blocks = blocks
        self.width = width

    @abstractmethod
    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """The frozen tower, from pixels or token ids to embeddings (B, E), not normalised."""

    @abstractmethod
    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        """Embeddings (N, E) from the output of the last block (N, T, D)."""

    def describe(self, inputs: torch.Tensor, captured: Activations) -> Activations:
        """Add what the head will need to know of the inputs; cut padding where that is exact."""
        return captured

    def read_token(self, index: int, activations: Activations) -> torch.Tensor | None:
        """Output (B, 1, D) of one frozen block for the token that the head reads, without computing
        the others; None where that is not known to be possible."""
        return None

    @torch.no_grad()
    def prefix(self, inputs: torch.Tensor, adapted_blocks: int, lean: bool = False) -> Activations:
        """Run the frozen part up to the last `adapted_blocks` blocks.

        With one adapted block (or none) only the token that the head reads is kept. `lean` computes
        the last block for that token alone: equal but for the order of sums (1e-6), and nearly a
        block's time less.
        """
        depth = max(1, adapted_blocks)
        if depth > len(self.blocks):
            raise ValueError(f"{depth} blocks to adapt, and the tower has {len(self.blocks)}")
        captured: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        caller = threading.get_ident()

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            # Other threads may be in the same block, and see a hook that is half registered.
            if threading.get_ident() == caller:
                captured.append((args, kwargs or {}))
                raise _Stop

        block = self.blocks[len(self.blocks) - depth]
        with _HOOKS:
            handle = block.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.run(inputs)
        except _Stop:
            pass
        finally:
            with _HOOKS:
                handle.remove()
        (f_in, *rest), kwargs = captured[0]
        call = (tuple(rest), kwargs)
        activations = self.describe(inputs, Activations(f_in, f_in, call))
        first = len(self.blocks) - depth
        if lean and depth == 1 and (token := self.read_token(first, activations)) is not None:
            return replace(activations.reduced(), f_frozen=token)
        f_frozen = self._block(first, activations.f_in, activations)
        activations = replace(activations, f_frozen=f_frozen)
        return activations.reduced() if depth == 1 else activations

    def _block(self, index: int, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        """One frozen block on (B, T, D) or (S, B, T, D)."""
        args, kwargs = activations.call
        flat = tokens.flatten(0, -3)
        if tokens.dim() == 4:
            seeds = tokens.shape[0]
            args = tuple(_repeat(a, seeds) for a in args)
            kwargs = {k: _repeat(v, seeds) for k, v in kwargs.items()}
        output = self.blocks[index](flat, *args, **kwargs)
        output = output[0] if isinstance(output, tuple) else output
        return output.reshape(tokens.shape)

    def suffix(
        self, activations: Activations, adapters: Sequence[BlockAdapter], seeds: int = 1
    ) -> torch.Tensor:
        """Embeddings (S, B, E), not normalised, of S = `seeds` adapted towers.

        `adapters` belong to the tower's last blocks, first adapted block first; without any, all
        seeds have the frozen embeddings.
        """
        f_in, f_frozen = activations.f_in, activations.f_frozen
        if len(adapters) == 0:
            f_in = f_frozen.expand(seeds, *f_frozen.shape[-3:])
        first = len(self.blocks) - len(adapters)
        for k, adapter in enumerate(adapters):
            if k > 0:
                f_frozen = self._block(first + k, f_in, activations)
            f_in = adapter(f_in, f_frozen)
        seeds, batch = f_in.shape[:2]
        return self.head(f_in.flatten(0, 1), activations.for_seeds(seeds)).view(seeds, batch, -1)

    def frozen(self, activations: Activations) -> torch.Tensor:
        """Embeddings (B, E) of the tower as it was pre-trained, from activations at depth 1."""
        return self.head(activations.f_frozen, activations)


class ImageTower(Tower):
    """An image encoder; `class_tokens` tokens stand before those of the patches."""

    visual: Any

    def __init__(self, blocks: nn.ModuleList, width: int, class_tokens: int) -> None:
        super().__init__(blocks, width)
        self.class_tokens = class_tokens
        self.dtype = torch.float32

    def describe(self, inputs: torch.Tensor, captured: Activations) -> Activations:
        patches = captured.f_in[:, self.class_tokens :].amax(1)
        read = torch.zeros(len(inputs), dtype=torch.long) if self.reads_first_token else None
        return replace(captured, read=read, patches=patches)

    def packed(self, dtype: torch.dtype) -> Self:
        """The same tower for inference on a CPU, its blocks computing in `dtype`.

        This one stays as it is; weights outside the blocks are shared.
        """
        weights = {id(weight): weight for weight in self.visual.parameters()}
        tower = copy.deepcopy(self, weights)
        pack(tower.blocks, dtype)
        return tower

    def cast(self, dtype: torch.dtype) -> Self:
        """The same tower for inference in `dtype`, its activations and embeddings too.

        This one stays as it is, and takes as much memory again.
        """
        tower = copy.deepcopy(self)
        tower.visual.to(dtype)
        tower.dtype = dtype
        return tower

    @property
    @abstractmethod
    def reads_first_token(self) -> bool:
        """Whether the head reads the class token and no other."""


class OpenClipImageTower(ImageTower):
    """open_clip's own vision transformer."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__(visual.transformer.resblocks, visual.transformer.width, class_tokens=1)
        self.visual = visual

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.visual(inputs.to(self.dtype))

    @property
    def reads_first_token(self) -> bool:
        return self.visual.attn_pool is None and self.visual.pool_type == "tok"

    def read_token(self, index: int, activations: Activations) -> torch.Tensor | None:
        block = self.blocks[index]
        if not self.reads_first_token or not isinstance(block, ResidualAttentionBlock):
            return None
        every = block.ln_1(activations.f_in)
        attended = block.attention(q_x=every[:, :1], k_x=every, v_x=every)
        token = activations.f_in[:, :1] + block.ls_1(attended)
        return token + block.ls_2(block.mlp(block.ln_2(token)))

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        pooled, _ = self.visual._pool(tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


class TimmImageTower(ImageTower):
    """A timm vision transformer in open_clip's wrapper."""

    def __init__(self, visual: TimmModel) -> None:
        trunk = visual.trunk
        class_tokens = int(getattr(trunk, "num_prefix_tokens", 0))
        super().__init__(trunk.blocks, trunk.embed_dim, class_tokens)
        self.visual = visual

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.visual(inputs.to(self.dtype))

    @property
    def reads_first_token(self) -> bool:
        return str(self.visual.trunk.global_pool) == "token"

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        trunk = self.visual.trunk
        return self.visual.head(trunk.forward_head(trunk.norm(tokens)))


class OpenClipTextTower(Tower):
    """open_clip's text transformer, as part of `CLIP` or standing alone in `CustomTextCLIP`."""

    def __init__(self, clip: Any) -> None:
        text = clip.text if hasattr(clip, "text") else clip
        super().__init__(text.transformer.resblocks, text.transformer.width)
        self.clip = clip
        self.text = text
        self.pool_type = getattr(text, "text_pool_type", None) or text.pool_type
        self.eos_id = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None)
        self.class_token = getattr(text, "cls_emb", None) is not None

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.clip.encode_text(inputs)

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
        captured = replace(captured, read=read)
        mask = captured.call[1].get("attn_mask")
        if mask is None or mask.dim() != 2:
            return captured
        # Causal attention: tokens behind the last one that is read change nothing.
        length = int(read.max()) + 1
        kwargs = captured.call[1] | {"attn_mask": mask[:length, :length]}
        f_in = captured.f_in[:, :length]
        return replace(captured, f_in=f_in, call=(captured.call[0], kwargs))

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        if activations.read is None:
            raise AssertionError("text activations always know the token that is read")
        rows = torch.arange(len(tokens), device=tokens.device)
        pooled = self.text.ln_final(tokens[rows, activations.read])
        projection = self.text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


class HuggingFaceTextTower(Tower):
    """A BERT-like Hugging Face encoder in open_clip's wrapper."""

    def __init__(self, text: HFTextEncoder) -> None:
        super().__init__(text.transformer.encoder.layer, text.config.hidden_size)
        self.text = text

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.text(inputs)

    def describe(self, inputs: torch.Tensor, captured: Activations) -> Activations:
        mask = (inputs != self.text.config.pad_token_id).long()
        position = getattr(self.text.pooler, "cls_token_position", None)
        read = None if position is None else torch.full((len(inputs),), position)
        return replace(captured, mask=mask, read=read)

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        own = getattr(self.text.transformer, "pooler", None)
        output = BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=None if own is None else own(tokens)
        )
        return self.text.proj(self.text.pooler(output, activations.mask))


def image_tower(clip: Any) -> ImageTower:
    """The image tower of an open_clip model; `UserError` for one without transformer blocks."""
    visual = clip.visual
    if isinstance(visual, VisionTransformer) and visual.transformer.batch_first:
        return OpenClipImageTower(visual)
    if isinstance(visual, TimmModel) and isinstance(
        getattr(visual.trunk, "blocks", None), nn.ModuleList | nn.Sequential
    ):
        return TimmImageTower(visual)
    raise UserError(
        f"the backbone's image tower ({type(visual).__name__}) has no list of transformer blocks "
        "to adapt; use a vision transformer (ViT-B-32, ViT-L-14-336, a timm ViT)"
    )


def text_tower(clip: Any) -> Tower:
    """The text tower of an open_clip model; `UserError` for one without transformer blocks."""
    text = getattr(clip, "text", None)
    if isinstance(text, HFTextEncoder):
        if hasattr(getattr(text.transformer, "encoder", None), "layer"):
            return HuggingFaceTextTower(text)
    elif hasattr(getattr(text or clip, "transformer", None), "resblocks"):
        return OpenClipTextTower(clip)
    raise UserError(
        f"the backbone's text tower ({type(text).__name__}) has no list of transformer blocks to "
        "adapt; use an open_clip text transformer or a BERT-like Hugging Face encoder"
    )
