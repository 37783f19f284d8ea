"""Backbones as folders: configuration, weights and tokenizer, on a disk or in a bucket.

    open_clip_config.json          open_clip's configuration of model and input
    open_clip_model.safetensors    weights (also *.bin and *.pth, without pickled code)
    tokenizer.json, ...            where the tokenizer is Hugging Face's
    config.json                    where the text tower is Hugging Face's: its configuration
    sdmad_backbone.json            the seal that `sdmad save-backbone` writes: fingerprint of the
                                   weights, SHA-256 of all other files

With these files no hub is asked for anything. A folder in a bucket is copied to each node once.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import open_clip
from filelock import FileLock
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from sdmad import storage
from sdmad.backbones.architectures import check_config
from sdmad.backbones.config import LOCAL
from sdmad.errors import UserError
from sdmad.phantoms import backbone as phantom_backbone
from sdmad.storage import StoredObject

TEXT_CONFIG = "config.json"
SEAL = "sdmad_backbone.json"
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.bpe")
WEIGHTS = (
    HF_SAFE_WEIGHTS_NAME,
    "open_clip_pytorch_model.safetensors",
    HF_WEIGHTS_NAME,
    "model.safetensors",
    "pytorch_model.bin",
)
LOCK_SECONDS = 3600.0


def cache_folder() -> Path:
    """Where copies of remote backbones are kept: `SDMAD_CACHE`, else the user's cache."""
    base = os.environ.get("SDMAD_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sdmad" / "backbones"


def fetch(uri: str) -> Path:
    """A local copy of what is at an s3:// URI, a folder or one file; a local path as it is.

    Processes of one node copy it once: the first holds a lock. A changed object gets a copy of its
    own. Raises `UserError` when nothing is there, or a model that cannot be adapted.
    """
    if not storage.is_s3(uri):
        return Path(uri)
    entries = list(storage.list_objects(uri))
    if not entries:
        raise UserError(f"there is no backbone at {uri}; check the path or the prefix")
    version = hashlib.sha256("".join(f"{e.uri} {e.etag}\n" for e in entries).encode())
    target = cache_folder() / version.hexdigest()[:24]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock", timeout=LOCK_SECONDS):
        if not target.exists():
            _copy(entries, uri, target)
    one = len(entries) == 1 and entries[0].uri == uri
    return target / storage.name(uri) if one else target


def _copy(entries: list[StoredObject], base: str, target: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        # The configuration first: it may say that the weights are of no use.
        for entry in sorted(entries, key=lambda entry: storage.name(entry.uri) != HF_CONFIG_NAME):
            place = scratch / storage.relative(entry.uri, base)
            if not place.resolve().is_relative_to(scratch.resolve()):
                raise UserError(f"{entry.uri}: a backbone's files stand below its folder")
            place.parent.mkdir(parents=True, exist_ok=True)
            with storage.open_read(entry.uri, planned=entry) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 22)
            if place == scratch / HF_CONFIG_NAME:
                read_config(scratch, base)
        scratch.replace(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def read_config(folder: Path, shown: str) -> dict[str, Any]:
    """`open_clip_config.json` of a folder, `shown` to people as its name.

    Raises `UserError` for a folder without one, and for a model that cannot be adapted.
    """
    path = folder / HF_CONFIG_NAME
    if not path.is_file():
        raise UserError(
            f"the folder {shown} has no {HF_CONFIG_NAME}; `sdmad save-backbone` writes one from "
            "any model of open_clip"
        )
    try:
        content = json.loads(path.read_text())
        towers = [content["model_cfg"][part] for part in ("vision_cfg", "text_cfg")]
    except (ValueError, KeyError, TypeError):
        towers = [None]
    if not all(isinstance(tower, dict) for tower in towers):
        raise UserError(f"{shown}/{HF_CONFIG_NAME} is not a configuration of open_clip")
    check_config(content["model_cfg"], shown)
    return content


def find_weights(folder: Path, shown: str) -> Path:
    """The weights in a folder."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pth")])
    if len(others) != 1:
        raise UserError(f"the folder {shown} has no weights called {WEIGHTS[0]}")
    return others[0]


def create(folder: Path, shown: str) -> tuple[Any, dict[str, Any]]:
    """The model of a folder without its weights, and open_clip's configuration of it.

    A text tower of Hugging Face's is built from the folder's own `config.json`.
    """
    config = read_config(folder, shown)
    text = dict(config["model_cfg"]["text_cfg"])
    if text.get("hf_model_name"):
        _require(folder, shown, TEXT_CONFIG, "the configuration of its text tower")
        text["hf_model_name"] = str(folder)
    if text.get("hf_tokenizer_name") and not any(any(folder.glob(v)) for v in VOCABULARIES):
        _require(folder, shown, VOCABULARIES[0], "the vocabulary of its tokenizer")
    clip = open_clip.create_model(
        f"{LOCAL}{folder}",
        load_weights=False,
        pretrained_text=False,
        text_cfg=text | {"hf_model_pretrained": False} if text.get("hf_model_name") else text,
    )
    return clip, config["model_cfg"]


def _require(folder: Path, shown: str, name: str, what: str) -> None:
    if not (folder / name).is_file():
        raise UserError(
            f"the folder {shown} has no {name}, {what}; `sdmad save-backbone` writes all files"
        )


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder."""
    if (folder / phantom_backbone.MERGES).is_file():
        # A checkpoint of `sdmad pretrain-backbone` brings its own, smaller vocabulary.
        return phantom_backbone.load_tokenizer(folder)
    return open_clip.get_tokenizer(f"{LOCAL}{folder}")


def seal(folder: Path, weights: str) -> dict[str, Any]:
    """The seal of a folder: the fingerprint of its weights, and SHA-256 of its other files."""
    others = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name not in (SEAL, *WEIGHTS) and not path.name.startswith(".")
    )
    return {
        "weights": weights,
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in others},
    }


def check_files(folder: Path, shown: str) -> None:
    """Raise `UserError` when files beside the weights are not those that the folder was saved with.

    Folders that `sdmad save-backbone` did not write have no seal, and are not checked.
    """
    for name, digest in _read_seal(folder, shown).get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, shown, f"the file {name} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise _damaged(folder, shown, f"the file {name} is not the one that was saved")


def check_weights(folder: Path, weights: str, shown: str) -> None:
    """Raise `UserError` when the weights are not those that the folder was saved with."""
    sealed = _read_seal(folder, shown).get("weights", weights)
    if sealed != weights:
        raise _damaged(
            folder, shown, f"its weights are {weights}, and those that were saved {sealed}"
        )


def _read_seal(folder: Path, shown: str) -> dict[str, Any]:
    path = folder / SEAL
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        if isinstance(content["weights"], str) and isinstance(content.get("files", {}), dict):
            return dict(content)
    except (ValueError, KeyError, TypeError):
        pass
    raise _damaged(folder, shown, f"its {SEAL} cannot be read")


def _damaged(folder: Path, shown: str, what: str) -> UserError:
    copied = f" (or delete this node's copy of it, {folder})" if storage.is_s3(shown) else ""
    return UserError(
        f"the backbone folder {shown} was changed after it was saved: {what}; save it again to a "
        f"new folder with `sdmad save-backbone`{copied}, or remove {SEAL} if you changed it on "
        "purpose"
    )
