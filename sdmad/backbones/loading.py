"""A frozen open_clip model: found, loaded, checked, and split into its two towers.

backbone = load_backbone(BackboneConfig(model="ViT-L-14-336", pretrained="openai"))
acts = backbone.image.prefix(backbone.pixels(images), adapted_blocks=1)
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from open_clip.constants import HF_CONFIG_NAME
from open_clip.factory import load_state_dict
from open_clip.pretrained import download_pretrained, get_pretrained_cfg

import sdmad.backbones.lite  # noqa: F401 - registers its architecture with timm
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones import folders, identity, published
from sdmad.backbones.architectures import check_config
from sdmad.backbones.config import HUB, PHANTOM, BackboneConfig
from sdmad.backbones.identity import BackboneIdentity
from sdmad.backbones.quiet import quiet
from sdmad.backbones.towers import ImageTower, Tower, check_towers, image_tower, text_tower
from sdmad.errors import UserError
from sdmad.phantoms import backbone as phantom_backbone

OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class Backbone:
    """Both towers, the tokenizer and the input format of one frozen model.

    `logit_scale` is tau and `logit_bias` the offset that its training added to tau-scaled cosines
    (0 for models trained without one); `identity` is compared before adapters are put on it.
    """

    config: BackboneConfig
    image: ImageTower
    text: Tower
    tokenizer: Any
    spec: ImageSpec
    logit_scale: float
    logit_bias: float
    identity: BackboneIdentity
    device: torch.device

    @property
    def fingerprint(self) -> str:
        """A hash over all weights."""
        return self.identity.weights

    def pixels(self, images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        """uint8 images (B, H, W, 3) -> the tower's normalised input (B, 3, H, W) on the device."""
        writable = np.require(images, requirements=["C", "W"])  # PyTorch warns of others.
        batch = torch.from_numpy(writable).to(self.device)
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


def wrap(
    clip: Any, tokenizer: Any, config: BackboneConfig, device: str, architecture: str = ""
) -> Backbone:
    """Freeze an open_clip model and find its towers; `architecture` is a digest of its shape.

    Raises `UserError` for a model whose towers are not transformers.
    """
    clip = clip.eval().requires_grad_(False).to(device)
    image, text = image_tower(clip), text_tower(clip)
    spec = input_of(clip)
    bias = getattr(clip, "logit_bias", None)
    return Backbone(
        config=config,
        image=image,
        text=text,
        tokenizer=tokenizer,
        spec=spec,
        logit_scale=float(clip.logit_scale.exp()),
        logit_bias=0.0 if bias is None else float(bias),
        identity=BackboneIdentity(
            architecture=architecture,
            activation=identity.activation(image.blocks, text.blocks),
            input=spec,
            weights=identity.fingerprint(clip),
        ),
        device=torch.device(device),
    )


def input_of(clip: Any) -> ImageSpec:
    """The input format that an open_clip model carries."""
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return ImageSpec(
        size=(height, width),
        mean=tuple(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(preprocess.get("std") or open_clip.OPENAI_DATASET_STD),
        interpolation=preprocess.get("interpolation", "bicubic"),
        resize_mode=preprocess.get("resize_mode", "shortest"),
        fill_color=preprocess.get("fill_color", 0),
    )


@lru_cache(maxsize=1)
def load_backbone(config: BackboneConfig, device: str | None = None) -> Backbone:
    """Load the model, on the GPU if there is one; the last one loaded is kept.

    Raises `UserError` when the model is not known, its weights cannot be had or contradict the
    configuration, or its towers are not transformers.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_backbone(config)
    clip, tokenizer, model_config = load_parts(config)
    backbone = wrap(clip, tokenizer, config, device, identity.architecture(model_config))
    if config.folder is not None:
        folder = folders.fetch(config.folder)
        folders.check_seal(folder, backbone.fingerprint, config.folder)
    return backbone


def load_parts(config: BackboneConfig) -> tuple[Any, Any, dict[str, Any]]:
    """The model with its weights, its tokenizer, and open_clip's configuration of it.

    Raises `UserError` when they cannot be had.
    """
    try:
        with quiet():
            return _load(config)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the backbone {config} could not be loaded: {reason}; check the name and that its "
            "weights are on this machine or that the hub can be reached"
        ) from error


def check_backbone(config: BackboneConfig) -> None:
    """Raise `UserError` when the model or its weights cannot exist; loads nothing."""
    if not config.brings_weights:
        published.check_name(config)
        return
    if config.pretrained is not None:
        raise UserError(
            f"the backbone {config.model} brings its own weights; remove "
            f"'pretrained: {config.pretrained}'"
        )
    if config.folder is not None and not config.model.startswith("s3://"):
        if not Path(config.folder).is_dir():
            raise UserError(f"there is no backbone directory {config.folder}")
        folders.read_config(Path(config.folder), config.folder)


def _load(config: BackboneConfig) -> tuple[Any, Any, dict[str, Any]]:
    if config.model == PHANTOM:
        return _load_folder(phantom_backbone.WEIGHTS, PHANTOM)
    if config.folder is not None:
        return _load_folder(folders.fetch(config.folder), config.folder)
    if config.model.startswith(HUB):
        model_config = hub_config(config.model)
        check_config(model_config, config.model)
        clip = open_clip.create_model(config.model, weights_only=True, pretrained_text=False)
        return clip, open_clip.get_tokenizer(config.model), model_config
    return _load_named(config)


def _load_folder(folder: Path, shown: str) -> tuple[Any, Any, dict[str, Any]]:
    clip, model_config = folders.create(folder, shown)
    check_towers(clip)
    open_clip.load_checkpoint(clip, str(folders.find_weights(folder, shown)), weights_only=True)
    return clip, folders.tokenizer_of(folder), model_config


def _load_named(config: BackboneConfig) -> tuple[Any, Any, dict[str, Any]]:
    """A model of open_clip's by name, with published weights or those of a file."""
    pretrained = str(config.pretrained)
    if pretrained in open_clip.list_pretrained_tags_by_model(config.model):
        facts = published.facts_of(config.model, pretrained)
        clip = create_named(config.model, facts)
        path = download_pretrained(get_pretrained_cfg(config.model, pretrained))
        open_clip.load_checkpoint(clip, path, weights_only=not is_torchscript(Path(path)))
    else:
        path = folders.fetch(pretrained)
        facts = published.facts_of_file(config, is_openai(path))
        clip = create_named(config.model, facts)
        _check_positions(clip, path, config)
        open_clip.load_checkpoint(clip, str(path), weights_only=not is_torchscript(path))
    model_config = (open_clip.get_model_config(config.model) or {}) | {
        "quick_gelu": facts.quick_gelu
    }
    return clip, open_clip.get_tokenizer(config.model), model_config


def create_named(model: str, facts: published.Facts, device: str = "cpu") -> Any:
    """A model of open_clip's with random weights, built as the facts say."""
    return open_clip.create_model(
        model,
        device=device,
        pretrained_text=False,
        quick_gelu=facts.quick_gelu,
        force_preprocess_cfg=facts.preprocess,
    )


def hub_config(model: str) -> dict[str, Any]:
    """open_clip's configuration of a model on the hub."""
    path = hf_hub_download(model.removeprefix(HUB), HF_CONFIG_NAME)
    return json.loads(Path(path).read_text())["model_cfg"]


def is_torchscript(path: Path) -> bool:
    """Whether a checkpoint is a TorchScript archive, as OpenAI's are; it holds no pickled code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def is_openai(path: Path) -> bool:
    """Whether a checkpoint is one of OpenAI's own, an archive or its state dict."""
    if path.suffix in (".safetensors", ".npz", ".npy"):
        return False
    if is_torchscript(path):
        return True
    # Files of before 2020 are no zip archives, and cannot be mapped.
    mapped = zipfile.is_zipfile(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return all(key in content for key in OPENAI_KEYS)


def _check_positions(clip: Any, path: Path, config: BackboneConfig) -> None:
    """Raise `UserError` for a file of another image size: open_clip would interpolate positions."""
    wanted = getattr(clip.visual, "positional_embedding", None)
    if wanted is None or path.suffix in (".npz", ".npy"):
        return
    state = load_state_dict(str(path), weights_only=not is_torchscript(path))
    found = state.get("visual.positional_embedding")
    if found is not None and found.shape != wanted.shape:
        raise UserError(
            f"{path} holds a tower of {found.shape[0]} positions of width {found.shape[1]}, and "
            f"{config.model} has {wanted.shape[0]} of width {wanted.shape[1]}: give the model that "
            "the file was trained as, with its image size and patch size"
        )
