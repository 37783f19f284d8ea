"""What makes two backbones the same: adapters fit one backbone and no other."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.config import BackboneConfig, FileFormat

# Where weights came from, and what `activation` says already.
_NOT_STRUCTURE = {
    "custom_text",
    "quick_gelu",
    "timm_model_pretrained",
    "hf_model_pretrained",
    "hf_model_name",
    "hf_tokenizer_name",
    "init_logit_scale",
    "init_logit_bias",
}
SENTENCES = [
    "a chest film with pneumonia",
    "a fundus photograph of glaucoma",
    # Longer than the texts that small models read.
    "T2-weighted MRI, 3.5 mm: hyperintense (non-enhancing) lesion of the left parieto-occipital "
    "lobe, with oedema and mass effect; no haemorrhage, no calcification, and no midline shift in "
    "any slice. The ventricles, the basal cisterns and the posterior fossa are unremarkable.",
]
_ACTIVATIONS = {
    "QuickGELU": "quick_gelu",
    "QuickGELUActivation": "quick_gelu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "ReLU": "relu",
}


class BackboneIdentity(BaseModel):
    """Architecture (a digest), activation, input format, tokenizer (a digest of token ids) and
    weights (a digest) of a backbone."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    architecture: str
    activation: str
    input: ImageSpec
    tokenizer: str
    weights: str

    def difference(self, other: "BackboneIdentity") -> str:
        """The first thing in which `other` differs, in words; empty when nothing does."""
        for name, mine in self:
            theirs = getattr(other, name)
            if mine != theirs:
                if name in ("architecture", "tokenizer"):
                    return f"another {name}"
                what = "input format" if name == "input" else name
                return f"{what} {_shown(theirs)} instead of {_shown(mine)}"
        return ""

    def moved(self, config: BackboneConfig, place: str) -> BackboneConfig:
        """The same backbone with its weights at another place, a folder or a checkpoint file, which
        has the activation and the input format of before."""
        moved = config.moved(place)
        if moved.brings_weights:
            return moved
        quick = "quick_gelu" in self.activation
        described = {name: getattr(self.input, name) for name in FileFormat.model_fields}
        return moved.model_copy(
            update={
                "activation": "quick_gelu" if quick else "gelu",
                "preprocess": FileFormat(**described),
            }
        )


def _shown(value: Any) -> str:
    if not isinstance(value, ImageSpec):
        return str(value)
    height, width = value.size
    return (
        f"{height} x {width}, {value.resize_mode}, {value.interpolation}, "
        f"mean {tuple(round(m, 4) for m in value.mean)}"
    )


def architecture(model_config: dict[str, Any]) -> str:
    """A digest of open_clip's configuration of a model, without what concerns its weights."""

    def structure(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        kept = {key: structure(v) for key, v in part.items() if key not in _NOT_STRUCTURE}
        return {key: value for key, value in kept.items() if value is not None}

    text = json.dumps(structure(model_config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def tokenizer(tokens: Callable[[list[str]], torch.Tensor]) -> str:
    """A digest of the token ids of `SENTENCES`, which show vocabulary, cutting and length."""
    content = np.ascontiguousarray(tokens(SENTENCES).cpu().numpy().astype("<i8"))
    shaped = f"{content.shape}".encode() + content.tobytes()
    return hashlib.blake2b(shaped, digest_size=8).hexdigest()


def activation(image_blocks: nn.Module, text_blocks: nn.Module) -> str:
    """The activation of the transformer blocks as they are built, of both towers."""
    image, text = _activations(image_blocks), _activations(text_blocks)
    return image if image == text else f"{image} (image), {text} (text)"


def _activations(blocks: nn.Module) -> str:
    found = set()
    for module in blocks.modules():
        name = _ACTIVATIONS.get(type(module).__name__)
        if name == "gelu" and getattr(module, "approximate", "none") == "tanh":
            name = "gelu_tanh"
        found |= {name} if name else set()
    return "+".join(sorted(found)) or "unknown"


def fingerprint(model: nn.Module) -> str:
    """BLAKE2b over names, shapes and values of all weights, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()
