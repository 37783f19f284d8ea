"""A frozen open_clip model: found, loaded, checked, and split into its two towers.

backbone = load_backbone(BackboneConfig(model="ViT-L-14-336", pretrained="openai"))
acts = backbone.image.prefix(backbone.pixels(images), adapted_blocks=1)
"""

import json
import pickle
import re
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
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

import sdmad.backbones.lite  # noqa: F401 - registers its architecture with timm
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones import folders, identity, published
from sdmad.backbones.architectures import check_config
from sdmad.backbones.config import HUB, PHANTOM, BackboneConfig, FileFormat
from sdmad.backbones.faster import UnfilledWeights, mapped
from sdmad.backbones.identity import BackboneIdentity
from sdmad.backbones.quiet import quiet
from sdmad.backbones.towers import Activations, ImageTower, TextTower
from sdmad.backbones.towers.kinds import check_towers, image_tower, text_tower
from sdmad.errors import UserError
from sdmad.phantoms import backbone as phantom_backbone

# Learned positions, which open_clip would interpolate.
POSITIONS = ("positional_embedding", "pos_embed")
LONGEST_REASON = 300
DAMAGED = "its file is empty, damaged or not a checkpoint"
_UNKNOWN_KEY = re.compile(r"unexpected keyword argument '(\w+)'")
FOLDER = (
    "without internet, give a folder that `sdmad save-backbone` has written (docs/backbones.md)"
)
OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class Backbone:
    """Both towers, the tokenizer and the input format of one frozen model.

    `logit_scale` is tau and `logit_bias` the offset that its training added to tau-scaled cosines
    (0 for models trained without one); `identity` is compared before adapters are put on it.
    """

    config: BackboneConfig
    image: ImageTower
    text: TextTower
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

    @property
    def images_at_once(self) -> int:
        """How many images to encode at once; on CPUs more take memory, and no less time."""
        return 64 if self.device.type == "cuda" else 16

    def pixels(self, images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        """uint8 images (B, H, W, 3) -> the tower's normalised input (B, 3, H, W) on the device."""
        batch = self._on_device(np.asarray(images)).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(self.spec.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.spec.std, device=self.device).view(3, 1, 1)
        return (batch - mean) / std

    def _on_device(self, images: np.ndarray) -> torch.Tensor:
        if self.device.type != "cuda":
            return torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        # From pinned memory the GPU copies while it computes.
        pinned = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(pinned.numpy(), images)
        return pinned.to(self.device, non_blocking=True)

    def tokens(self, texts: list[str]) -> torch.Tensor:
        """Token ids (P, L) on the device."""
        return self.tokenizer(texts).to(self.device)

    def image_activations(
        self, images: torch.Tensor, blocks: int, lean: bool = False
    ) -> tuple[Activations, torch.Tensor]:
        """Activations of normalised images (B, 3, H, W), and their frozen unit embeddings (B, E).

        `blocks` are the adapted ones. The embeddings are in single precision, whatever the tower's.
        `lean` as in `Tower.prefix`.
        """
        activations = self.image.prefix(images, blocks, lean)
        frozen = self.image.frozen(activations) if blocks <= 1 else self.image.run(images)
        return activations, F.normalize(frozen.float(), dim=-1)

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

    Raises `UserError` for a model whose towers are not transformers, or with weights that are not
    finite.
    """
    for name, weights in clip.named_parameters():
        if not torch.isfinite(weights.sum(dtype=torch.float64)):
            raise UserError(f"its weights {name} are not all finite numbers")
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
            tokenizer=identity.tokenizer(tokenizer),
            weights=identity.fingerprint(clip),
        ),
        device=torch.device(device),
    )


def input_of(clip: Any) -> ImageSpec:
    """The input format that an open_clip model carries; `UserError` for one that cannot be."""
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    size = preprocess["size"]
    stated = {key: preprocess[key] for key in ("mean", "std") if preprocess.get(key)}
    try:
        FileFormat(**stated)
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        allowed = "from 0 to 1" if key == "mean" else "above 0 and at most 1"
        raise UserError(
            f"its preprocess_cfg: {key} is three numbers {allowed}, not {stated[str(key)]}"
        ) from None
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
    try:
        backbone = wrap(clip, tokenizer, config, device, identity.architecture(model_config))
    except (UserError, ValueError) as error:
        raise UserError(f"the backbone {config} cannot be used: {error}") from error
    if config.activation == "quick_gelu" != backbone.identity.activation:
        raise _not_quick(config, f": its blocks have {backbone.identity.activation}")
    if config.folder is not None:
        folder = folders.fetch(config.folder)
        folders.check_weights(folder, backbone.fingerprint, config.folder)
    return backbone


def _not_quick(config: BackboneConfig, why: str = "") -> UserError:
    """The exception for a model of which open_clip cannot build both towers with QuickGELU."""
    return UserError(
        f"backbone.activation: quick_gelu is not possible for {config.model}{why}; remove that key"
    )


def load_parts(config: BackboneConfig) -> tuple[Any, Any, dict[str, Any]]:
    """The model with its weights, its tokenizer, and open_clip's configuration of it.

    Raises `UserError` when they cannot be had.
    """
    try:
        # Models draw random numbers, which weights replace; those of the caller stay.
        with quiet(), torch.random.fork_rng(devices=[]):
            return _load(config)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, TypeError) and config.activation == "quick_gelu":
            raise _not_quick(config) from error
        raise UserError(
            f"the backbone {config} could not be loaded: {_reason(error)}; {_advice(config)}"
        ) from error


def _reason(error: Exception) -> str:
    """The first words of an exception of open_clip's or PyTorch's that say what is wrong."""
    if isinstance(error, pickle.UnpicklingError):
        return "its file is not a checkpoint, or holds code, which is never run"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(
        error, (EOFError, KeyError, IndexError, AttributeError, SafetensorError)
    ):
        return DAMAGED
    found = lines[0].rstrip(".")
    if found.startswith("PytorchStreamReader"):
        return DAMAGED
    if unknown := _UNKNOWN_KEY.search(found):
        return f"open_clip does not know the key {unknown[1]!r} of its configuration"
    if found.startswith("Error(s) in loading state_dict") and len(lines) > 1:
        found = f"the weights are those of another model: {lines[1].rstrip('.')}"
    return found if len(found) <= LONGEST_REASON else f"{found[:LONGEST_REASON]}..."


def _advice(config: BackboneConfig) -> str:
    if config.folder is not None or config.model == PHANTOM:
        return "save the folder again with `sdmad save-backbone`"
    if config.brings_weights or config.pretrained in open_clip.list_pretrained_tags_by_model(
        config.model
    ):
        return f"check the name, and that the hub can be reached; {FOLDER}"
    return "give a checkpoint of this model, as open_clip writes it"


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
    if config.activation or config.preprocess.model_dump(exclude_none=True):
        raise UserError(
            f"the backbone {config.model} says itself which activation and input its weights have; "
            "remove 'activation' and 'preprocess', which are for checkpoint files"
        )
    if config.folder is not None and not config.model.startswith("s3://"):
        if not Path(config.folder).is_dir():
            raise UserError(f"there is no backbone folder {config.folder}")
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
    folders.check_files(folder, shown)
    with UnfilledWeights():
        clip, model_config = folders.create(folder, shown)
    check_towers(clip)
    weights = folders.find_weights(folder, shown)
    _check_positions(clip, weights, "its configuration")
    load_weights(clip, weights)
    return clip, folders.tokenizer_of(folder), model_config


def _load_named(config: BackboneConfig) -> tuple[Any, Any, dict[str, Any]]:
    """A model of open_clip's by name, with published weights or those of a file."""
    pretrained = str(config.pretrained)
    if pretrained in open_clip.list_pretrained_tags_by_model(config.model):
        facts = published.facts_of(config.model, pretrained)
        with UnfilledWeights():
            clip = create_named(config.model, facts)
        load_weights(clip, Path(download_pretrained(get_pretrained_cfg(config.model, pretrained))))
    else:
        path = folders.fetch(pretrained)
        facts = published.facts_of_file(config, is_openai(path))
        with UnfilledWeights():
            clip = create_named(config.model, facts)
        _check_positions(clip, path, config.model)
        _load_file(clip, path)
    model_config = (open_clip.get_model_config(config.model) or {}) | {
        "quick_gelu": facts.quick_gelu
    }
    return clip, _tokenizer(config.model), model_config


def _tokenizer(model: str) -> Any:
    """The tokenizer of a named model; those of SigLIP and others lie at the hub."""
    try:
        return open_clip.get_tokenizer(model)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer of {model} could not be had from its hub: {_reason(error)}; {FOLDER}"
        ) from error


def load_weights(clip: Any, path: Path, strict: bool = True) -> Any:
    """Give an open_clip model the weights of a file; the keys that do not match if not `strict`."""
    scripted = is_torchscript(path)
    with mapped(path, not scripted):
        return open_clip.load_checkpoint(clip, str(path), strict=strict, weights_only=not scripted)


def _load_file(clip: Any, path: Path) -> None:
    """Load a checkpoint file; OpenAI's state dicts also hold three numbers that are no weights."""
    numbers = is_openai(path) and not is_torchscript(path)
    found = load_weights(clip, path, strict=not numbers)
    if not numbers:
        return
    names = [*found.missing_keys, *(k for k in found.unexpected_keys if k not in OPENAI_KEYS)]
    if names:
        more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        raise UserError(
            f"{path} does not hold the weights of this model: {names[0]}{more} missing or unknown"
        )


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
    if path.suffix in (".npz", ".npy"):
        return False
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return set(OPENAI_KEYS) <= set(file.keys())
    if is_torchscript(path):
        return True
    # Files of before 2020 are no zip archives, and cannot be mapped.
    mapped = zipfile.is_zipfile(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return all(key in content for key in OPENAI_KEYS)


def _check_positions(clip: Any, path: Path, wants: str) -> None:
    """Raise `UserError` for a file of another image size or length of texts: open_clip would
    interpolate positions."""
    if path.suffix in (".npz", ".npy"):
        return
    scripted = is_torchscript(path)
    with mapped(path, not scripted):
        state = load_state_dict(str(path), weights_only=not scripted)
    for name, wanted in clip.state_dict().items():
        found = state.get(name) if name.endswith(POSITIONS) else None
        if found is not None and found.shape != wanted.shape:
            raise UserError(
                f"{path} holds {name} of shape {tuple(found.shape)}, and {wants} has "
                f"{tuple(wanted.shape)}: give the model that the file was trained as, with its "
                "image size, patch size and length of texts"
            )
