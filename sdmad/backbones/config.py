"""Which backbone a user asks for; docs/backbones.md has a line for each kind."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sdmad import storage

PHANTOM = "phantom"
HUB = "hf-hub:"
LOCAL = "local-dir:"
CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".npy")

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class FileFormat(BaseModel):
    """The input that the weights of a checkpoint file were trained with, where it is not the one
    of the model's published weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mean: tuple[Mean, Mean, Mean] | None = Field(
        default=None, description="of pixels between 0 and 1"
    )
    std: tuple[Deviation, Deviation, Deviation] | None = Field(
        default=None, description="of pixels between 0 and 1"
    )
    interpolation: Literal["bicubic", "bilinear"] | None = Field(
        default=None, description="`bicubic` or `bilinear`"
    )
    resize_mode: Literal["shortest", "longest", "squash"] | None = Field(
        default=None, description="`shortest` (then centre crop), `longest` (then pad) or `squash`"
    )


class BackboneConfig(BaseModel):
    """One open_clip model and its weights.

    `model` is `phantom` (embedded), a name of open_clip, `hf-hub:organisation/name`, or a folder
    with configuration and weights: a path, `local-dir:path` or an s3:// URI. A name of open_clip
    needs `pretrained`: a tag, or a checkpoint file. What a tag says of activation and input
    decides; a bare file says nothing, so both can be given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str = Field(default=PHANTOM, min_length=1)
    pretrained: str | None = None
    activation: Literal["gelu", "quick_gelu"] | None = Field(
        default=None,
        description="of a checkpoint file's transformer blocks; by default that of the model, "
        "for a file of OpenAI's `quick_gelu`",
    )
    preprocess: FileFormat = Field(
        default=FileFormat(),
        description="input of a checkpoint file; by default that of the model's published weights",
    )

    @field_validator("model")
    @classmethod
    def _absolute_folder(cls, model: str) -> str:
        path = model.removeprefix(LOCAL)
        local = model.startswith(LOCAL) or ("://" not in path and Path(path).is_dir())
        return f"{LOCAL}{Path(path).absolute()}" if local else model.rstrip("/")

    @field_validator("pretrained")
    @classmethod
    def _absolute_file(cls, pretrained: str | None) -> str | None:
        # Tags of open_clip are no files, and stay.
        here = pretrained is not None and Path(pretrained).is_file()
        return str(Path(pretrained).absolute()) if pretrained and here else pretrained

    @property
    def folder(self) -> str | None:
        """The path or s3:// URI of a backbone that is a folder."""
        if self.model.startswith(LOCAL):
            return self.model.removeprefix(LOCAL)
        return self.model if storage.is_s3(self.model) else None

    @property
    def brings_weights(self) -> bool:
        """Whether the model's name says where its weights are."""
        return self.model == PHANTOM or self.model.startswith(HUB) or self.folder is not None

    def moved(self, place: str) -> "BackboneConfig":
        """The same backbone with its weights at another place: a folder, as `sdmad save-backbone`
        writes it, or a checkpoint file, for a backbone that is a name of open_clip."""
        remote = storage.is_s3(place)
        file = place.endswith(CHECKPOINTS) if remote else Path(place).is_file()
        if self.brings_weights or not file:
            local = place if remote or place.startswith(LOCAL) else f"{LOCAL}{place}"
            return BackboneConfig(model=local)
        where = place if remote else str(Path(place).absolute())
        return self.model_copy(update={"pretrained": where})

    def __str__(self) -> str:
        return self.model if self.pretrained is None else f"{self.model} ({self.pretrained})"
