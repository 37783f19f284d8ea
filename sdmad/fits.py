"""Fits on storage: one safetensors file for each (shots, seed).

A file holds the adapters and the decision rule of one seed and, as metadata, its provenance:
backbone, catalog, learner configuration and support. The same fit has the same bytes on every run.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load, save

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec, InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.identity import BackboneIdentity
from sdmad.errors import UserError
from sdmad.inputs.catalog import Catalog
from sdmad.inputs.shots import Shots, in_order
from sdmad.method.adapter import TowerAdapters
from sdmad.method.learner import LearnerConfig
from sdmad.method.model import DecisionRule, SignModel
from sdmad.storage.fit_files import EARLIER, Key, detector_uri, fit_key
from sdmad.storage.fit_files import fit_uri as fit_uri
from sdmad.storage.fit_files import list_fits as list_fits
from sdmad.words import code_version as code_version

if TYPE_CHECKING:
    from sdmad.backbones.loading import Backbone

FORMAT: Literal[6] = 6
HEADER_BLOCK = 1 << 16
LONGEST_HEADER = 1 << 24
RULE_FIELDS = tuple(field.name for field in fields(DecisionRule))


class Provenance(BaseModel):
    """What a fit was made from; `source` says what was read of the support."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[6] = FORMAT
    code_version: str
    backbone: BackboneConfig
    identity: BackboneIdentity
    input: InputConfig = InputConfig()
    catalog: Catalog
    learner: LearnerConfig
    shots: Shots
    seed: int
    support_images: int
    support_digest: str
    source: Literal["images", "activations"] = "images"

    @staticmethod
    def of(backbone: "Backbone", **facts: Any) -> "Provenance":
        """The provenance of a fit on `backbone`; `facts` are the other fields."""
        return Provenance(
            code_version=code_version(),
            backbone=backbone.config,
            identity=backbone.identity,
            **facts,
        )

    @property
    def spec(self) -> ImageSpec:
        """What is done to pixels: the backbone's input, as the configuration changed it."""
        return self.input.apply(self.identity.input)


@dataclass(frozen=True)
class Fit:
    """A fit as read: tensors by name, provenance, and the SHA-256 of its file."""

    tensors: dict[str, torch.Tensor]
    provenance: Provenance
    digest: str


def fits_digest(fits: list[Fit]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over the fits of a detector."""
    return hashlib.sha256("".join(f.digest for f in fits).encode()).hexdigest()[:16]


def serialize(model: SignModel, rule: DecisionRule, index: int, provenance: Provenance) -> bytes:
    """The file of one fit, `index` being the position of its seed in `model` and `rule`."""
    tensors = {name: getattr(rule, name)[index] for name in RULE_FIELDS}
    for tower, adapters in (("image", model.image_adapters), ("text", model.text_adapters)):
        for k, layer in enumerate(adapters.layers):
            tensors[f"{tower}.{k}.down"] = layer.down[index]
            tensors[f"{tower}.{k}.up"] = layer.up[index]
    plain = {k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}
    return save(plain, {"sdmad": provenance.model_dump_json()})


def deserialize(content: bytes, uri: str) -> Fit:
    """The fit in the content of a file; `UserError` if it is not one."""
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        header: dict[str, Any] = json.loads(content[8 : 8 + length])
        provenance = Provenance.model_validate_json(header["__metadata__"]["sdmad"])
    except (SafetensorError, KeyError, ValueError):
        raise UserError(f"{uri} is not a fit of this version of sdmad; fit it again") from None
    return Fit(tensors, provenance, hashlib.sha256(content).hexdigest())


def read_provenance(uri: str) -> Provenance | None:
    """The provenance in the header of a fit, without its tensors; None if the file is not a fit."""
    try:
        with storage.open_read(uri, block_size=HEADER_BLOCK) as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(min(length, LONGEST_HEADER)))
        return Provenance.model_validate_json(header["__metadata__"]["sdmad"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def restore(fits: list[Fit], model: SignModel) -> DecisionRule:
    """Copy the adapters of `fits` into `model`, one seed each, and return their decision rule."""
    with torch.no_grad():
        for tower, adapters in (("image", model.image_adapters), ("text", model.text_adapters)):
            _restore_tower(fits, tower, adapters)
    stacked = {
        name: torch.stack([fit.tensors[name] for fit in fits]).to(model.bias.device)
        for name in RULE_FIELDS
    }
    return DecisionRule(**stacked)


def _restore_tower(fits: list[Fit], tower: str, adapters: TowerAdapters) -> None:
    for k, layer in enumerate(adapters.layers):
        layer.down.copy_(torch.stack([fit.tensors[f"{tower}.{k}.down"] for fit in fits]))
        layer.up.copy_(torch.stack([fit.tensors[f"{tower}.{k}.up"] for fit in fits]))


def find_detector(uri: str) -> list[str]:
    """URIs of the fits of the detector at `uri`, in the order of their seeds.

    `uri` is a fit, a folder `shots=<k>`, or a training run with one number of shots. Raises
    `UserError` if there is no fit, or if there are fits of several numbers of shots or of several
    training runs.
    """
    if uri.endswith(".safetensors"):
        if not storage.exists(uri):
            raise UserError(f"there is no fit at {uri}")
        return [uri]
    found: dict[Key, str] = {}
    for entry in storage.list_objects(uri):
        key = fit_key(entry.uri)
        if key and EARLIER not in storage.relative(entry.uri, uri).split("/"):
            if key in found:
                raise UserError(
                    f"{uri} holds several training runs ({found[key]}, {entry.uri}); choose one"
                )
            found[key] = entry.uri
    shots = in_order([s for s, _ in found])
    if not found:
        raise UserError(f"there is no detector at {uri}; make one with `sdmad train`")
    if len(shots) > 1:
        choices = ", ".join(detector_uri(uri, s) for s in shots)
        numbers = " and ".join(map(str, shots))
        raise UserError(f"{uri} has fits with {numbers} shots; choose one of {choices}")
    return [found[key] for key in sorted(found, key=lambda key: key[1])]


def load_fits(uri: str) -> list[Fit]:
    """Read the fits of a detector; `UserError` if they do not belong together."""
    uris = find_detector(uri)
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(storage.read_bytes, uris))
    fits = [deserialize(content, uri) for content, uri in zip(contents, uris, strict=True)]
    first = fits[0].provenance
    for fit, place in zip(fits, uris, strict=True):
        for field in ("identity", "input", "catalog", "learner"):
            if getattr(fit.provenance, field) != getattr(first, field):
                raise UserError(
                    f"the fits at {uri} do not belong together: {place} has another "
                    f"{field.replace('_', ' ')} than {uris[0]}; keep each training run in its own "
                    "folder"
                )
    return fits
