"""A backbone written as a folder that needs no hub: `sdmad save-backbone`.

save_backbone(BackboneConfig(model="ViT-L-14-336", pretrained="openai"), "s3://bucket/l14")
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file

from sdmad import storage
from sdmad.backbones.config import LOCAL, PHANTOM, BackboneConfig
from sdmad.backbones.folders import SEAL, fetch, seal
from sdmad.backbones.identity import BackboneIdentity, fingerprint
from sdmad.backbones.loading import check_backbone, load_backbone, load_parts
from sdmad.errors import UserError
from sdmad.phantoms.backbone import MERGES, WEIGHTS


def save_backbone(config: BackboneConfig, output: str, half: bool = False) -> BackboneIdentity:
    """Write configuration, weights and tokenizer below `output`, a path or s3:// URI.

    `half` stores weights in float16. What is written is loaded again, from its own files alone,
    before it is copied to its place. Raises `UserError` when something else is there.
    """
    check_backbone(config)
    storage.check_writable(output)
    if next(iter(storage.list_objects(output)), None) is not None:
        raise UserError(f"{output} is not empty; choose another output")
    clip, tokenizer, model_config = load_parts(config)
    if half:
        clip = clip.half().float()
    with tempfile.TemporaryDirectory(prefix="sdmad-backbone-") as scratch:
        folder = Path(scratch)
        _write(folder, clip, tokenizer, _merges(config), model_config, half)
        del clip
        saved = load_backbone.__wrapped__(BackboneConfig(model=f"{LOCAL}{folder}"), "cpu")
        _upload(folder, output)
    return saved.identity


def _write(
    folder: Path,
    clip: Any,
    tokenizer: Any,
    merges: Path | None,
    model_config: dict[str, Any],
    half: bool,
) -> None:
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    wanted = {key: preprocess[key] for key in vars(PreprocessCfg()) if key in preprocess}
    content = {"model_cfg": model_config, "preprocess_cfg": wanted}
    (folder / HF_CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n")
    weights = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in clip.state_dict().items()
    }
    save_file({k: v.clone() for k, v in weights.items()}, folder / HF_SAFE_WEIGHTS_NAME)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))
    elif merges is not None:
        shutil.copy(merges, folder / MERGES)
    text = getattr(clip, "text", None)
    if isinstance(text, HFTextEncoder):
        text.config.save_pretrained(str(folder))
    (folder / SEAL).write_text(json.dumps(seal(folder, fingerprint(clip)), indent=2) + "\n")


def _merges(config: BackboneConfig) -> Path | None:
    """The vocabulary that an embedded backbone, or a folder like it, brings."""
    place = WEIGHTS if config.model == PHANTOM else fetch(config.folder) if config.folder else None
    return place / MERGES if place and (place / MERGES).is_file() else None


def _upload(folder: Path, output: str) -> None:
    """The configuration goes last: a folder with one is whole."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name == HF_CONFIG_NAME)
    for path in files:
        name = path.relative_to(folder).as_posix()
        storage.write_bytes(storage.join(output, name), path.read_bytes())
