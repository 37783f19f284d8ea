"""Hugging Face text encoders in open_clip's wrapper: BERT (BiomedCLIP), RoBERTa, XLM-RoBERTa, and
the encoders of mT5 and NLLB."""

from dataclasses import replace
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sdmad.backbones.towers.base import Activations, TextTower

POSITION_BIAS = 1
"""Where blocks of T5 take the relative position bias, behind tokens and attention mask."""


class HuggingFaceTextTower(TextTower):
    """An encoder with a list of layers, which a last norm may follow."""

    def __init__(self, text: HFTextEncoder) -> None:
        layers = layers_of(text.transformer)
        if layers is None:
            raise ValueError(f"{type(text.transformer).__name__} has no list of layers")
        super().__init__(layers, text.config.hidden_size)
        self.text = text
        self.is_t5 = hasattr(text.transformer, "block")
        names = ("final_layer_norm", "layer_norm")
        norms = [getattr(text.transformer, name, None) for name in names]
        self.norm = next((norm for norm in norms if norm is not None), nn.Identity())

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().run(self._without_padding(inputs))

    def before_block(self, inputs: torch.Tensor, index: int) -> Activations:
        return super().before_block(self._without_padding(inputs), index)

    def _without_padding(self, inputs: torch.Tensor) -> torch.Tensor:
        """Token ids up to the end of the longest text: no token attends to padding behind it."""
        return inputs[:, : _length(inputs != self.text.config.pad_token_id)]

    def length(self, activations: Activations) -> int:
        if activations.mask is None:
            return super().length(activations)
        return _length(activations.mask)

    def encode(self, inputs: torch.Tensor) -> Any:
        return self.text(inputs)

    def describe(self, inputs: torch.Tensor, captured: Activations) -> Activations:
        mask = (inputs != self.text.config.pad_token_id).long()
        position = getattr(self.text.pooler, "cls_token_position", None)
        read = None if position is None else torch.full((len(inputs),), position)
        args, kwargs = captured.call
        if self.is_t5 and args[POSITION_BIAS] is None:
            # The first block makes the position bias of all and hands it on beside its tokens.
            bias = self.blocks[0](captured.f_in, *args, **kwargs)[1]
            args = (*args[:POSITION_BIAS], bias, *args[POSITION_BIAS + 1 :])
        return replace(captured, mask=mask, read=read, call=(args, kwargs))

    def head(self, tokens: torch.Tensor, activations: Activations) -> torch.Tensor:
        tokens = self.norm(tokens)
        own = getattr(self.text.transformer, "pooler", None)
        output = BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=None if own is None else own(tokens)
        )
        return self.text.proj(self.text.pooler(output, activations.mask))


def _length(real: torch.Tensor) -> int:
    """The length of the longest text, from which tokens (B, T) are real."""
    columns = real.any(0).nonzero()
    return int(columns.max()) + 1 if len(columns) else real.shape[1]


def layers_of(transformer: nn.Module) -> nn.ModuleList | None:
    """The layers of a BERT-like model, of a T5 encoder or of an M2M-100 (NLLB) encoder."""
    for name in ("encoder.layer", "block", "layers"):
        try:
            found = transformer.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return found
    return None
