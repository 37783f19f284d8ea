"""Every architecture of open_clip with few narrow blocks and random weights, its flags kept.

    small = build("ViT-B-16-SigLIP", folder)
    small.clip, small.images(4), small.token_ids(4)

Widths, depths, image sizes and vocabularies shrink; what decides how a tower computes stays:
activation, pooling, class token, norms, masks, projections, position embeddings, tuples returned.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from timm.models import vision_transformer_hybrid as hybrid
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import nn
from transformers import AutoConfig

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, wrap
from sdmad.inputs.catalog import parse_catalog
from sdmad.method.augment import SupportImages

WIDTH = 32
"""Of both towers and of the embedding: some architectures have no projection between them."""
HEADS = 4
LAYERS = 3
VOCABULARY = 100
CONTEXT = 12

HUGGING_FACE = {
    "roberta-base": "roberta",
    "xlm-roberta-base": "xlm-roberta",
    "xlm-roberta-large": "xlm-roberta",
    "google/mt5-base": "mt5",
    "google/mt5-xl": "mt5",
    "facebook/nllb-200-distilled-600M": "m2m_100",
    "facebook/nllb-200-distilled-1.3B": "m2m_100",
}
"""What the hub would say that these text towers are."""
_FLAT = {"embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS, "img_size": 24, "patch_size": 8}
_NARROW_STEM = {"embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS, "img_size": 32}
TIMM: dict[str, dict[str, Any]] = {
    "vision_transformer": _FLAT,
    "vision_transformer_relpos": _FLAT,
    "eva": _FLAT,
    "vision_transformer_hybrid": _NARROW_STEM,
    "vitamin": _NARROW_STEM
    | {
        "embed_cfg": VitCfg(
            embed_dim=(8, 16, WIDTH),
            depths=(1, 1, 1),
            stem_width=8,
            conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
            head_type="1d",
        )
    },
    "swin_transformer": {
        "embed_dim": 8,
        "depths": (1, 1, 1, 2),
        "num_heads": (1, 1, 2, 4),
        "img_size": 64,
        "window_size": 2,
    },
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, WIDTH)},
}
"""How a timm architecture of each module is made small."""
FASTVIT = {
    4: {"layers": (1, 1, 1, 2), "embed_dims": (8, 8, 16, 32)},
    5: {"layers": (1, 1, 1, 1, 2), "embed_dims": (8, 8, 16, 32, 32)},
}
"""The same by the number of stages."""
_UNSIZED = 64
"""Side of the images of architectures that take no size."""

TINY = parse_catalog(
    {
        "name": "tiny",
        "modality": "noise",
        "signs": {name: {"prompts": [name]} for name in ("round", "flat", "even")},
        "categories": {"one": {"signs": ["round", "flat"]}},
        "normal": {"signs": ["even"]},
    },
    "tiny",
)


@dataclass(frozen=True)
class Small:
    """One shrunken model; `key` is the same for architectures that shrink to the same model."""

    clip: nn.Module
    key: str
    pad_id: int
    eos_id: int

    def images(self, count: int) -> torch.Tensor:
        """Normalised images (count, 3, H, W)."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, 3, *self.size, generator=generator)

    @property
    def size(self) -> tuple[int, int]:
        size = self.clip.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def token_ids(self, count: int) -> torch.Tensor:
        """Texts of different lengths (count, L)."""
        texts = [" ".join(f"{row}.{k}" for k in range(2 + 5 * row % 7)) for row in range(count)]
        return self.tokens(texts)

    def tokens(self, texts: list[str]) -> torch.Tensor:
        """One token a word, then the tokenizer's end, then padding: (N, L)."""
        ids = torch.full((len(texts), CONTEXT), self.pad_id)
        for row, text in enumerate(texts):
            words = [5 + zlib.crc32(word.encode()) % 85 for word in text.split()][: CONTEXT - 1]
            ids[row, : len(words)] = torch.tensor(words)
            ids[row, len(words)] = self.eos_id
        return ids

    def backbone(self) -> Backbone:
        return wrap(self.clip, self.tokens, BackboneConfig(), "cpu")

    def support(self, seed: int) -> SupportImages:
        """Two images of noise with and two without the category of `TINY`."""
        generator = np.random.default_rng(seed)
        pixels = generator.integers(0, 255, (4, *self.size, 3), np.uint8)
        labels = np.array([[0], [1], [0], [1]])
        return SupportImages(2, seed, [f"{seed}-{row}" for row in range(4)], pixels, labels)


def build(name: str, folder: Path) -> Small:
    """The shrunken architecture; `folder` takes the configuration of a Hugging Face text tower."""
    config = open_clip.get_model_config(name)
    vision = _vision(config["vision_cfg"])
    text = _text(config["text_cfg"], folder)
    arguments = config | {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}
    custom = arguments.pop("custom_text", False) or "hf_model_name" in text
    kind = CLIP if not custom else CoCa if "multimodal_cfg" in config else CustomTextCLIP
    if kind is CoCa:
        decoder = {"layers": 1, "width": WIDTH, "heads": HEADS, "context_length": CONTEXT}
        arguments["multimodal_cfg"] = config["multimodal_cfg"] | decoder
    torch.manual_seed(0)
    with _small_timm():
        clip = kind(**arguments).eval().requires_grad_(False)
    for part, weight in clip.named_parameters():
        _draw(part, weight)
    pad, eos = text.get("pad_id", 0), text.get("eos_id", VOCABULARY - 1)
    if "hf_model_name" in text:
        pad, eos = clip.text.config.pad_token_id, 2
    return Small(clip, _key(kind, clip, arguments), pad, eos)


def _draw(name: str, weight: torch.Tensor) -> None:
    """Weights with which every block and token tells: open_clip and timm start with layer scales of
    1e-5 and embeddings of 0.02."""
    if weight.dim() < 2:
        weight.add_(0.1 * torch.randn_like(weight))
    elif "embed" in name and "patch_embed" not in name:
        weight.copy_(0.5 * torch.randn_like(weight))
    else:
        weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5)


def _vision(config: dict[str, Any]) -> dict[str, Any]:
    if "timm_model_name" in config:
        settings = _timm_settings(config["timm_model_name"])
        return config | {"image_size": settings.get("img_size", _UNSIZED)}
    if isinstance(config["layers"], list):
        small = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": _UNSIZED}
        return config | small
    small = {
        "width": WIDTH,
        "head_width": WIDTH // HEADS,
        "layers": LAYERS,
        "image_size": 24,
        "patch_size": 8,
    }
    if config.get("attentional_pool"):
        small |= {"attn_pooler_queries": 4, "attn_pooler_heads": HEADS}
    return config | small


def _text(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    if "hf_model_name" not in config:
        small = {"width": WIDTH, "heads": HEADS, "layers": LAYERS}
        return config | small | {"vocab_size": VOCABULARY, "context_length": CONTEXT}
    kind = HUGGING_FACE[config["hf_model_name"]]
    own = folder / kind
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
    if kind == "mt5":
        sizes |= {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_heads": HEADS}
        sizes |= {"num_layers": LAYERS, "num_decoder_layers": 1}
    elif kind == "m2m_100":
        sizes |= {"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": 1}
        sizes |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
        sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    else:
        sizes |= {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 64}
        sizes |= {"num_attention_heads": HEADS}
    AutoConfig.for_model(kind, **sizes).save_pretrained(own)
    return config | {"hf_model_name": str(own), "hf_model_pretrained": False}


def _timm_settings(name: str) -> dict[str, Any]:
    module = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    if module == "fastvit":
        return FASTVIT[5 if name.endswith(("mci3", "mci4")) else 4]
    return TIMM[module]


@contextmanager
def _small_timm() -> Iterator[None]:
    create, stem = timm.create_model, hybrid.ConvStem

    def small(name: str, **settings: Any) -> nn.Module:
        return create(name, **settings, **_timm_settings(name))

    def narrow(channels: tuple[int, ...], **settings: Any) -> nn.Module:
        return stem(channels=(8, 8, WIDTH), **settings)

    with (
        mock.patch.object(timm, "create_model", small),
        mock.patch.object(hybrid, "ConvStem", narrow),
    ):
        yield


def _key(kind: type, clip: nn.Module, arguments: dict[str, Any]) -> str:
    """What decides how the model computes, apart from its weights."""
    vision = {k: v for k, v in arguments["vision_cfg"].items() if not k.startswith("timm_")}
    text = {k: v for k, v in arguments["text_cfg"].items() if "tokenizer" not in k}
    digest = hashlib.sha256(repr((kind, clip)).encode())
    digest.update(json.dumps([vision, text, arguments.get("quick_gelu")], sort_keys=True).encode())
    digest.update(str(getattr(getattr(clip.visual, "trunk", None), "global_pool", "")).encode())
    for name, buffer in clip.named_buffers():
        digest.update(name.encode())
        digest.update(buffer.float().numpy().tobytes())
    return digest.hexdigest()
