"""Activations as tables: what `sdmad encode` keeps of an image, and all that detectors need of it.

    layout = Layout.of(backbone)
    columns = layout.columns_of(activations, frozen)      # float16 (B, n) by name
    activations, frozen = layout.restore(columns, backbone.image)

With one adapted block a detector needs the input and the frozen output of the last block at the
tokens that the head reads, and the maximum over patch tokens. Where the head reads one token that
is three vectors of the tower's width. Where it reads all, all are kept if they are few, and the
frozen embedding too; otherwise only the embedding and the maximum, which serve for search.

A row holds float16 numbers as binary values of fixed size, and a power of two, `scale`, by which
they are multiplied. It is 1 unless a number would not fit float16.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict

from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.identity import BackboneIdentity
from sdmad.backbones.loading import Backbone
from sdmad.backbones.towers import Activations, ImageTower
from sdmad.errors import UserError

MOST_TOKEN_BYTES = 128 << 10
"""Bytes of an image's tokens up to which all are kept, where the head reads all: 64 tokens of width
512, as the smallest towers have. A JPEG of 512 pixels is about as large."""
LARGEST = float(np.finfo(np.float16).max)
KEYS = ("uri", "archive", "member")


class Layout(BaseModel):
    """Shapes of what is kept of an image.

    `tokens` T of f_in and f_frozen, 0 where they are not kept; `width` D; `embedding` E, 0 where it
    follows from f_frozen; `grid` as in `Activations`. `all_tokens`: the head reads all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: int
    width: int
    embedding: int
    grid: tuple[int, int] = (0, 0)
    all_tokens: bool = False

    @staticmethod
    def of(backbone: Backbone) -> "Layout":
        """The layout for a backbone, from the activations of one black image."""
        pixels = np.zeros((1, *backbone.spec.size, 3), np.uint8)
        with torch.inference_mode():
            one, frozen = backbone.image_activations(backbone.pixels(pixels), 1, lean=True)
        tokens, width = one.f_in.shape[1:]
        every = one.read is None
        kept = not every or 2 * 2 * tokens * width <= MOST_TOKEN_BYTES
        return Layout(
            tokens=tokens if kept else 0,
            width=width,
            embedding=frozen.shape[1] if every else 0,
            grid=one.grid,
            all_tokens=every,
        )

    @property
    def lengths(self) -> dict[str, int]:
        """The number of float16 values in each column."""
        lengths = {"patches": self.width}
        if self.tokens:
            lengths |= {"f_in": self.tokens * self.width, "f_frozen": self.tokens * self.width}
        if self.embedding:
            lengths["embedding"] = self.embedding
        return lengths

    @property
    def bytes_per_image(self) -> int:
        """Bytes of an image's vectors, before compression and without its names."""
        return 2 * sum(self.lengths.values())

    @property
    def schema(self) -> pa.Schema:
        """The columns of a table of activations."""
        fields = [(name, pa.string()) for name in KEYS] + [("scale", pa.float32())]
        fields += [(name, pa.binary(2 * length)) for name, length in self.lengths.items()]
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])

    def columns_of(self, activations: Activations, frozen: torch.Tensor) -> dict[str, np.ndarray]:
        """What is kept of B images: `scale` (B,) float32, the others (B, n) float16."""
        tensors = {"patches": activations.patches, "embedding": frozen}
        tensors |= {"f_in": activations.f_in, "f_frozen": activations.f_frozen}
        values = {name: tensors[name].flatten(1).float().cpu().numpy() for name in self.lengths}
        largest = np.max([np.abs(v).max(1) for v in values.values()], axis=0)
        scale = np.exp2(np.ceil(np.log2(np.maximum(largest / LARGEST, 1)))).astype(np.float32)
        scaled = {name: (v / scale[:, None]).astype(np.float16) for name, v in values.items()}
        return scaled | {"scale": scale}

    def blank(self) -> dict[str, np.ndarray]:
        """The columns of an image of which nothing is known, for one row."""
        zeros = {name: np.zeros(n, np.float16) for name, n in self.lengths.items()}
        return zeros | {"scale": np.ones((), np.float32)}

    def restore(
        self, columns: dict[str, np.ndarray], tower: ImageTower, device: torch.device
    ) -> tuple[Activations, torch.Tensor]:
        """Activations (B, T, D) and frozen unit embeddings (B, E), in single precision."""
        count = len(columns["scale"])
        shape = (count, self.tokens, self.width)
        read = None if self.all_tokens else torch.zeros(count, dtype=torch.long, device=device)
        activations = Activations(
            _tensor(columns, "f_in", device).view(shape),
            _tensor(columns, "f_frozen", device).view(shape),
            read=read,
            grid=self.grid,
            patches=_tensor(columns, "patches", device),
        )
        return activations, self.embeddings(columns, tower, device)

    @property
    def embedding_columns(self) -> list[str]:
        """The columns from which `embeddings` are made."""
        return ["scale", "embedding" if self.embedding else "f_frozen"]

    @torch.no_grad()
    def embeddings(
        self, columns: dict[str, np.ndarray], tower: ImageTower, device: torch.device
    ) -> torch.Tensor:
        """Frozen unit embeddings (B, E), of the columns `embedding_columns`."""
        if self.embedding:
            return F.normalize(_tensor(columns, "embedding", device), dim=-1)
        token = _tensor(columns, "f_frozen", device)[:, None]
        read = torch.zeros(len(token), dtype=torch.long, device=device)
        return F.normalize(tower.frozen(Activations(token, token, read=read)), dim=-1)


def _tensor(columns: dict[str, np.ndarray], name: str, device: torch.device) -> torch.Tensor:
    """Values (B, n) of a column, in single precision."""
    scale = torch.from_numpy(columns["scale"]).to(device)
    return torch.from_numpy(columns[name]).to(device).float() * scale[:, None]


def to_arrow(columns: dict[str, np.ndarray]) -> dict[str, pa.Array]:
    """Columns of `Layout.columns_of` as arrays: vectors as binary values of fixed size."""
    made = {}
    for name, values in columns.items():
        if values.ndim == 1:
            made[name] = pa.array(values)
            continue
        buffer = pa.py_buffer(np.ascontiguousarray(values))
        kind = pa.binary(2 * values.shape[1])
        made[name] = pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, buffer])
    return made


def from_arrow(table: pa.Table | pa.RecordBatch) -> dict[str, np.ndarray]:
    """The inverse of `to_arrow`, for the columns that a table has."""
    found = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_fixed_size_binary(field.type):
            parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
            length = field.type.byte_width // 2
            arrays = [_values(part, length) for part in parts]
            empty = np.zeros((0, length), np.float16)
            found[field.name] = np.concatenate(arrays) if arrays else empty
        elif field.name == "scale":
            found[field.name] = np.array(column.to_numpy(zero_copy_only=False), np.float32)
    return found


def _values(part: pa.FixedSizeBinaryArray, length: int) -> np.ndarray:
    flat = np.frombuffer(
        part.buffers()[1], np.float16, len(part) * length, 2 * length * part.offset
    )
    return flat.reshape(len(part), length)


@dataclass(frozen=True)
class User:
    """What computes from activations, in the words of messages.

    `name`, as in "the configuration"; what it can be encoded with, as in "its backbone" and by
    which `option` of `sdmad encode`; and what can be done `instead`.
    """

    name: str
    backbone: str
    option: str
    instead: str


@dataclass(frozen=True)
class Stored:
    """The facts of all activations in one place, from the metadata of their plan."""

    archive: str
    backbone: BackboneConfig
    identity: BackboneIdentity
    spec: ImageSpec
    layout: Layout

    def metadata(self) -> dict[str, str]:
        """The same as texts."""
        return {
            "archive": self.archive,
            "backbone": f"{self.backbone} {self.identity.weights}",
            "backbone_config": self.backbone.model_dump_json(),
            "identity": self.identity.model_dump_json(),
            "input": self.spec.to_json(),
            "layout": self.layout.model_dump_json(),
        }

    def check(
        self, uri: str, identity: BackboneIdentity, spec: ImageSpec, blocks: int, user: User
    ) -> None:
        """Raise `UserError` if these activations, at `uri`, do not serve `user`.

        It has a backbone of this identity, takes its input as in `spec`, and adapts so many blocks
        of the image tower.
        """
        if difference := self.identity.difference(identity):
            raise UserError(
                f"{user.name} has another backbone than the activations {uri}: {difference}; "
                f"encode the archive with {user.backbone}, or {user.instead}"
            )
        if self.spec != spec:
            raise UserError(
                f"{user.name} takes its input in another way than the activations {uri} were made "
                "(resize, windows or stretch differ); encode the archive with "
                f"`{user.option}`, or {user.instead}"
            )
        if blocks > 1:
            raise UserError(
                f"{user.name} adapts {blocks} blocks of the image tower, and activations are those "
                f"of one; {user.instead}"
            )
        if not self.layout.tokens:
            raise UserError(
                f"the activations {uri} have no tokens, because the head of the backbone reads all "
                f"tokens of an image; {user.instead}"
            )

    @staticmethod
    def of(metadata: dict[str, str], uri: str) -> "Stored":
        """From the metadata of the plan at `uri`; `UserError` if that is not one of activations."""
        try:
            return Stored(
                archive=metadata["archive"],
                backbone=BackboneConfig.model_validate_json(metadata["backbone_config"]),
                identity=BackboneIdentity.model_validate_json(metadata["identity"]),
                spec=ImageSpec.from_json(metadata["input"]),
                layout=Layout.model_validate_json(metadata["layout"]),
            )
        except (KeyError, ValueError, TypeError):
            raise UserError(
                f"{uri} does not hold activations of this version of sdmad; make them with "
                "`sdmad encode`"
            ) from None
