"""Labelled images whose activations are stored, in the place of their pixels.

found = images.find(pool, wanted)          # `images` opened by `sdmad.scoring.chosen`
found.check(pool, "pool", uri)
activations, frozen = found.chosen.restore(support, tower, device)
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from sdmad.activations import Layout, Stored, User
from sdmad.backbones.towers import Activations, ImageTower
from sdmad.errors import UserError
from sdmad.inputs.matching import Name, near_miss, shown, some
from sdmad.method.learner import LearnerConfig

INSTEAD = "leave out `activations` to read images"
CONFIGURATION = User("the configuration", "its backbone", "--config", INSTEAD)


@dataclass(frozen=True)
class Chosen:
    """Activations of some images: `columns` as of `Layout.columns_of`, and the row of each image
    (archive, member)."""

    layout: Layout
    rows: dict[Name, int]
    columns: dict[str, np.ndarray]

    def restore(
        self, images: Iterable[Name], tower: ImageTower, device: torch.device
    ) -> tuple[Activations, torch.Tensor]:
        """Activations (N, T, D) and unit embeddings (N, E) of images."""
        rows = [self.rows[image] for image in images]
        some = {name: values[rows] for name, values in self.columns.items()}
        return self.layout.restore(some, tower, device)


@dataclass(frozen=True)
class Found:
    """What is stored of labelled images.

    `chosen` has the wanted ones. `failed` are images that could not be encoded, each with the
    reason, `absent` those that are not there, and `others` some that are there under other names.
    """

    chosen: Chosen
    failed: dict[Name, str]
    absent: list[Name]
    others: list[Name]

    def check(self, images: Collection[Name], split: str, activations: str) -> None:
        """Raise `UserError` if some of `images`, those of a split, are absent."""
        if not self.absent:
            return
        raise UserError(
            f"{len(self.absent):,} of {len(images):,} images of {split} are not in the activations "
            f"{activations}: {some(self.absent)}{near_miss(self.absent, self.others)}; they have "
            f"{some(self.others[:3]) or 'no other images'}; correct archive and member in the "
            "label table, run `sdmad encode` again if the images are new, or remove these rows"
        )

    def check_wanted(self, wanted: Iterable[Name]) -> None:
        """Raise `UserError` if an image that is needed could not be encoded."""
        bad = [image for image in wanted if image in self.failed]
        if bad:
            more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
            raise UserError(
                f"the image {shown(bad[0])} cannot be used: {self.failed[bad[0]]}{more}"
            )


class EncodedImages(Protocol):
    """The activations of an archive, at `uri`."""

    @property
    def uri(self) -> str: ...

    @property
    def stored(self) -> Stored: ...

    def find(self, images: Iterable[Name], wanted: Collection[Name]) -> Found:
        """Look for all `images`, and read those that are `wanted`."""


def check_archive(images: EncodedImages, archive: str) -> None:
    """Raise `UserError` if the activations are those of another archive."""
    if images.stored.archive != archive:
        raise UserError(
            f"the activations {images.uri} are those of the archive {images.stored.archive}, and "
            f"the configuration has {archive}; give the same archive, or {INSTEAD}"
        )


def check_views(learner: LearnerConfig, name: str = "the configuration") -> None:
    """Raise `UserError` if a learner needs views that are not stored."""
    if learner.augment.views > 1:
        raise UserError(
            f"{name} trains on {learner.augment.views} views of an image, and activations are "
            f"those of the image itself; set learner.augment.views to 1, or {INSTEAD}"
        )
