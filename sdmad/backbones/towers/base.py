"""What all towers share: the pass up to the first adapted block, and the pass from there.

`Tower.prefix` runs the tower's own forward pass and stops at the first adapted block: what lies
below is frozen and the same for every seed, so it is computed once (and cached in training).
`Tower.suffix` runs the adapted blocks for all seeds and the tower's head.

Shapes: S seeds, B inputs, N rows of any number, T tokens, D token width, E embedding width.
"""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from sdmad.backbones.packed import pack

BlockAdapter = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From input f_in and frozen output f^_out of one block, (S, B, T, D) or (B, T, D) where all seeds
share them, to its adapted output (S, B, T, D)."""
Call = tuple[tuple[Any, ...], dict[str, Any]]
_NONE = torch.empty(0)
_HOOKS = threading.Lock()  # PyTorch numbers hooks without one.


@dataclass(frozen=True)
class Activations:
    """What the frozen part of a tower hands to the adapted part.

    `f_in` and `f_frozen` are the input and the frozen output of the first adapted block, (B, T, D)
    or, once gathered for each seed, (S, B, T, D). `call` is what the blocks take besides tokens
    (attention masks). `read` (B,) is the only token that the head reads, None when it reads all;
    `mask` (B, T) marks real tokens for heads that average. `grid` is the height and width of the
    maps that the tokens are cut from, for blocks that take maps. `patches` (B, D) or (S, B, D) is
    the per-channel maximum of `f_in` over patch tokens; empty for text.
    """

    f_in: torch.Tensor
    f_frozen: torch.Tensor
    call: Call = ((), {})
    read: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    grid: tuple[int, int] = (0, 0)
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

    def of_images(
        self, f_in: torch.Tensor, f_frozen: torch.Tensor, patches: torch.Tensor = _NONE
    ) -> "Activations":
        """Activations of other images in the same image tower."""
        return Activations(f_in, f_frozen, self.call, grid=self.grid, patches=patches)

    def for_seeds(self, seeds: int) -> "Activations":
        """The same for a seeds-major batch of S x B rows, as heads see it."""
        read = None if self.read is None else self.read.repeat(seeds)
        mask = None if self.mask is None else self.mask.repeat(seeds, 1)
        return replace(self, read=read, mask=mask)


class _Stop(Exception):
    """Ends a forward pass at the first adapted block."""


def first(output: Any) -> Any:
    """The embedding, or the tokens, of a module that may return more beside them.

    The towers of a CoCa model return (embedding, tokens for the decoder), blocks of Hugging Face
    (tokens, attention weights or position bias).
    """
    return output[0] if isinstance(output, tuple) else output


class Tower(ABC):
    """One encoder: `blocks` are its transformer layers, `width` their token width D."""

    def __init__(self, blocks: nn.ModuleList | nn.Sequential, width: int) -> None:
        self.blocks = blocks
        self.width = width

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """The frozen tower, from pixels or token ids to embeddings (B, E), not normalised."""
        return first(self.encode(inputs))

    @abstractmethod
    def encode(self, inputs: torch.Tensor) -> Any:
        """What the model's own encoder returns for pixels or token ids."""

    @abstractmethod
    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        """Embeddings (N, E) from the output of the last block (N, T, D)."""

    def capture(self, f_in: torch.Tensor, call: Call) -> Activations:
        """Activations from what the first adapted block was called with; `f_frozen` is `f_in`."""
        return Activations(f_in, f_in, call)

    def describe(self, inputs: torch.Tensor, captured: Activations) -> Activations:
        """Add what the head will need to know of the inputs; cut padding where that is exact."""
        return captured

    def read_token(self, index: int, activations: Activations) -> torch.Tensor | None:
        """Output (B, 1, D) of one block for the token that the head reads, from `activations.f_in`,
        without computing the others; None where that is not known to be possible."""
        return None

    @torch.no_grad()
    def prefix(self, inputs: torch.Tensor, adapted_blocks: int, lean: bool = False) -> Activations:
        """Run the frozen part up to the last `adapted_blocks` blocks.

        With one adapted block (or none) only the token that the head reads is kept. `lean` computes
        the last block for that token alone: equal but for the order of sums (1e-6), and nearly a
        block's time less.
        """
        index = self.first_adapted(adapted_blocks)
        return self.adapted_part(self.before_block(inputs, index), index, lean)

    def first_adapted(self, adapted_blocks: int) -> int:
        """The number of the first of the last `adapted_blocks` blocks; the last block without any.

        Raises `ValueError` if the tower has fewer blocks.
        """
        depth = max(1, adapted_blocks)
        if depth > len(self.blocks):
            raise ValueError(f"{depth} blocks to adapt, and the tower has {len(self.blocks)}")
        return len(self.blocks) - depth

    @torch.no_grad()
    def adapted_part(self, before: Activations, index: int, lean: bool = False) -> Activations:
        """What `prefix` returns, from the input of block `index`."""
        one = index == len(self.blocks) - 1
        if lean and one and (token := self.read_token(index, before)) is not None:
            return replace(before.reduced(), f_frozen=token)
        activations = replace(before, f_frozen=self.block(index, before.f_in, before))
        return activations.reduced() if one else activations

    @torch.no_grad()
    def before_block(self, inputs: torch.Tensor, index: int) -> Activations:
        """Run the frozen part up to one block: its input (B, T, D), as `f_in` and `f_frozen`."""
        captured: list[Call] = []
        caller = threading.get_ident()

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            # Other threads may be in the same block, and see a hook that is half registered.
            if threading.get_ident() == caller:
                captured.append((args, kwargs or {}))
                raise _Stop

        with _HOOKS:
            handle = self.blocks[index].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.encode(inputs)
        except _Stop:
            pass
        finally:
            with _HOOKS:
                handle.remove()
        (f_in, *rest), kwargs = captured[0]
        return self.describe(inputs, self.capture(f_in, (tuple(rest), kwargs)))

    def block(self, index: int, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        """Output of one frozen block for tokens (B, T, D) or (S, B, T, D)."""
        call = self.call_for(activations, 1 if tokens.dim() == 3 else len(tokens))
        output = self.run_block(index, tokens.flatten(0, -3), activations, call)
        return output.reshape(tokens.shape)

    def run_block(
        self, index: int, tokens: torch.Tensor, activations: Activations, call: Call
    ) -> torch.Tensor:
        """Output of one block for tokens (N, T, D), in the block's own layout and back."""
        args, kwargs = call
        return first(self.blocks[index](tokens, *args, **kwargs))

    def call_for(self, activations: Activations, seeds: int) -> Call:
        """What blocks take besides the tokens of a seeds-major batch."""
        return activations.call

    def part(
        self, activations: Activations, seeds: slice, inputs: slice | torch.Tensor
    ) -> Activations:
        """The activations of some seeds and inputs, these as a slice or as rows."""
        of_seeds = activations.f_in.dim() == 4
        rows = (seeds, inputs) if of_seeds else (inputs,)
        read, mask, patches = activations.read, activations.mask, activations.patches
        return replace(
            activations,
            f_in=activations.f_in[rows],
            f_frozen=activations.f_frozen[rows],
            call=self.call_of_part(activations, inputs),
            read=None if read is None else read[inputs],
            mask=None if mask is None else mask[inputs],
            patches=patches[rows] if patches.numel() else patches,
        )

    def call_of_part(self, activations: Activations, inputs: slice | torch.Tensor) -> Call:
        """What blocks take besides the tokens of some inputs."""
        return activations.call

    def suffix(
        self, activations: Activations, adapters: Sequence[BlockAdapter], seeds: int = 1
    ) -> torch.Tensor:
        """Embeddings (S, B, E), not normalised, of S = `seeds` adapted towers.

        `adapters` belong to the tower's last blocks, first adapted block first; without any, all
        seeds have the frozen embeddings.
        """
        f_in, f_frozen = activations.f_in, activations.f_frozen
        if len(adapters) == 0 and f_frozen.dim() == 3:
            frozen = self.head(f_frozen, activations)
            return frozen.expand(seeds, *frozen.shape)
        if len(adapters) == 0:
            f_in = f_frozen
        start = len(self.blocks) - len(adapters)
        for k, adapter in enumerate(adapters):
            if k > 0:
                f_frozen = self.block(start + k, f_in, activations)
            f_in = adapter(f_in, f_frozen)
        seeds, batch = f_in.shape[:2]
        return self.head(f_in.flatten(0, 1), activations.for_seeds(seeds)).view(seeds, batch, -1)

    def frozen(self, activations: Activations) -> torch.Tensor:
        """Embeddings (B, E) of the tower as it was pre-trained, from activations at depth 1."""
        return self.head(activations.f_frozen, activations)


class TextTower(Tower):
    """A text encoder, whose blocks may take a mask for each text."""

    def length(self, activations: Activations) -> int:
        """How many tokens count in the longest text; those behind are padding."""
        return activations.f_in.shape[-2]

    def texts(self, activations: Activations, rows: torch.Tensor) -> Activations:
        """The activations of the texts at `rows`, without padding behind the longest of them."""
        return self.without_padding(self.part(activations, slice(None), rows))

    def without_padding(self, activations: Activations) -> Activations:
        """The same without padding behind the longest text, exact but for the order of sums."""
        whole, length = activations.f_in.shape[-2], self.length(activations)
        if length == whole:
            return activations
        mask = activations.mask

        def shorter(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or value.dim() < 2:
                return value
            for dim in (-2, -1):
                value = value.narrow(dim, 0, length) if value.shape[dim] == whole else value
            return value

        return replace(
            activations,
            f_in=activations.f_in[..., :length, :],
            f_frozen=activations.f_frozen[..., :length, :],
            call=_changed(activations.call, shorter),
            mask=None if mask is None else mask[:, :length],
        )

    def call_for(self, activations: Activations, seeds: int) -> Call:
        if seeds == 1:
            return activations.call
        return _of_masks(activations.call, lambda mask: torch.cat([mask] * seeds))

    def call_of_part(self, activations: Activations, inputs: slice | torch.Tensor) -> Call:
        count = activations.f_in.shape[-3]

        def some(mask: torch.Tensor) -> torch.Tensor:
            # A mask for each text, or for each text and head.
            return mask.unflatten(0, (count, -1))[inputs].flatten(0, 1)

        return _of_masks(activations.call, some)


class ImageTower(Tower):
    """An image encoder; `class_tokens` tokens stand before those of the patches."""

    def __init__(
        self, visual: Any, blocks: nn.ModuleList | nn.Sequential, width: int, class_tokens: int
    ) -> None:
        super().__init__(blocks, width)
        self.visual = visual
        self.class_tokens = class_tokens
        self.dtype = torch.float32

    def encode(self, inputs: torch.Tensor) -> Any:
        return self.visual(inputs.to(self.dtype))

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


def _of_masks(call: Call, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    """`call` with its attention masks that have a batch dimension changed."""

    def changed(value: Any) -> Any:
        batched = isinstance(value, torch.Tensor) and value.dim() > 2 and value.shape[0] > 1
        return change(value) if batched else value

    return _changed(call, changed)


def _changed(call: Call, change: Callable[[Any], Any]) -> Call:
    args, kwargs = call
    return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}
