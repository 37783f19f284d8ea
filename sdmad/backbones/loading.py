"""A frozen open_clip model: what is loaded, how it is named, and its two towers.

backbone = load_backbone(BackboneConfig(model="ViT-L-14-336", pretrained="openai"))
acts = backbone.image.prefix(backbone.pixels(images), adapted_blocks=1)
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator

import sdmad.phantoms.backbone as phantom_backbone
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.towers import ImageTower, Tower, image_tower, text_tower
from sdmad.errors import UserError

PHANTOM = "phantom"


class BackboneConfig(BaseModel):
    """Which open_clip model: `phantom` (embedded), a name of open_clip, `hf-hub:`, `local-dir:`.

    `pretrained` is a tag of open_clip or a checkpoint file, for plain names only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str = Field(default=PHANTOM, min_length=1)
    pretrained: str | None = None

    @field_validator("model")
    @classmethod
    def _absolute_directory(cls, model: str) -> str:
        prefix, mark, path = model.partition("local-dir:")
        return f"{mark}{Path(path).absolute()}" if mark and not prefix else model

    @field_validator("pretrained")
    @classmethod
    def _absolute_file(cls, pretrained: str | None) -> str | None:
        # Tags of open_clip are no files, and stay.
        here = pretrained is not None and Path(pretrained).is_file()
        return str(Path(pretrained).absolute()) if pretrained and here else pretrained

    def moved(self, place: str) -> "BackboneConfig":
        """The same model with its weights at another place: a file, or a directory."""
        if self.model.startswith("local-dir:"):
            return BackboneConfig(model=f"local-dir:{place}")
        return BackboneConfig(model=self.model, pretrained=place)

    def __str__(self) -> str:
        return self.model if self.pretrained is None else f"{self.model} ({self.pretrained})"


@dataclass(frozen=True)
class Backbone:
    """Both towers, the tokenizer and the input format of one frozen model.

    `logit_scale` is tau; `fingerprint` is a hash over all weights, so that adapters are never put
    on a backbone that they were not fitted to.
    """

    config: BackboneConfig
    image: ImageTower
    text: Tower
    tokenizer: Any
    spec: ImageSpec
    logit_scale: float
    fingerprint: str
    device: torch.device

    def pixels(self, images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        """uint8 images (B, H, W, 3) -> the tower's normalised input (B, 3, H, W) on the device."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        batch = batch.permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(self.spec.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.spec.std, device=self.device).view(3, 1, 1)
        return (batch - mean) / std

    def tokens(self, texts: list[str]) -> torch.Tensor:
        """Token ids (P, L) on the device."""
        return self.tokenizer(texts).to(self.device)

    @torch.no_grad()
    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        """Unit embeddings (B, E) of uint8 images (B, H, W, 3) by the frozen tower."""
        return F.normalize(self.image.run(self.pixels(images)), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Unit embeddings (P, E) by the frozen tower."""
        return F.normalize(self.text.run(self.tokens(texts)), dim=-1)


def fingerprint(model: torch.nn.Module) -> str:
    """BLAKE2b over names, shapes and values of all weights, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()


def wrap(clip: Any, tokenizer: Any, config: BackboneConfig, device: str) -> Backbone:
    """Freeze an open_clip model and find its towers.

    Raises `UserError` for a model whose towers are not transformers.
    """
    clip = clip.eval().requires_grad_(False).to(device)
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Backbone(
        config=config,
        image=image_tower(clip),
        text=text_tower(clip),
        tokenizer=tokenizer,
        spec=ImageSpec(
            size=(height, width),
            mean=tuple(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN),
            std=tuple(preprocess.get("std") or open_clip.OPENAI_DATASET_STD),
            interpolation=preprocess.get("interpolation", "bicubic"),
            resize_mode=preprocess.get("resize_mode", "shortest"),
        ),
        logit_scale=float(clip.logit_scale.exp()),
        fingerprint=fingerprint(clip),
        device=torch.device(device),
    )


@lru_cache(maxsize=1)
def load_backbone(config: BackboneConfig, device: str | None = None) -> Backbone:
    """Load the model, on the GPU if there is one; the last one loaded is kept.

    Raises `UserError` when open_clip does not know the model or its weights cannot be had.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = config.model
    if model == PHANTOM:
        model = f"local-dir:{phantom_backbone.WEIGHTS}"
    check_backbone(config)
    # open_clip warns that no weights were asked for; the check above has said so already.
    logging.getLogger().setLevel(max(logging.ERROR, logging.getLogger().level))
    try:
        clip = open_clip.create_model(model, pretrained=config.pretrained, weights_only=True)
        directory = Path(model.removeprefix("local-dir:"))
        if (directory / phantom_backbone.MERGES).is_file():
            # A checkpoint of jobs/pretrain_backbone.py brings its own, smaller vocabulary.
            tokenizer = phantom_backbone.load_tokenizer(directory)
        else:
            tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the backbone {config} could not be loaded: {reason}; check the name and that its "
            "weights are on this machine or that the hub can be reached"
        ) from error
    return wrap(clip, tokenizer, config, device)


def check_backbone(config: BackboneConfig) -> None:
    """Raise `UserError` when open_clip cannot know the model or its weights; loads nothing."""
    model, pretrained = config.model, config.pretrained
    if model == PHANTOM or ":" in model:
        if pretrained is not None:
            raise UserError(
                f"the backbone {model} brings its own weights; remove 'pretrained: {pretrained}'"
            )
        directory = model.removeprefix("local-dir:")
        if model.startswith("local-dir:") and not Path(directory).is_dir():
            raise UserError(f"there is no backbone directory {directory}")
        return
    if model not in open_clip.list_models():
        raise UserError(
            f"open_clip has no model {model!r}; try ViT-B-32 or ViT-L-14-336, "
            "or hf-hub:organisation/name, or local-dir:/path"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise UserError(
            f"the backbone {model} needs weights: set 'pretrained' to a file "
            f"or to one of {', '.join(tags)}"
        )
    if pretrained not in tags and not Path(pretrained).is_file():
        raise UserError(
            f"there are no weights {pretrained!r} for {model}: no such file, "
            f"and open_clip's tags are {', '.join(tags)}"
        )
