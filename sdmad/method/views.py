"""What the frozen image tower makes of the views of support images, within a budget of memory.

    views = EncodedViews(model, pixels, count=640)
    activations = views.take(torch.tensor([[3, 17], [4, 250]]))     # (S, B, T, D)

Unit embeddings and patch maxima of all views are kept. Tokens are kept of as many views as
`memory.CACHE` holds, and computed again for the others when they are asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sdmad.backbones.towers import Activations
from sdmad.method import memory
from sdmad.method.augment import AugmentConfig, SupportImages, augment
from sdmad.method.model import SignModel


class EncodedViews:
    """Views by number, 0 to `count` - 1; `pixels` makes uint8 images (N, H, W, 3) of numbers.

    `frozen` (count, E) are unit embeddings, `like` activations of no view.
    """

    def __init__(
        self, model: SignModel, pixels: Callable[[Sequence[int]], np.ndarray], count: int
    ) -> None:
        self._model = model
        self._pixels = pixels
        patches, frozen = [], []
        self._kept = 0
        at_once = model.backbone.images_at_once
        for start in range(0, count, at_once):
            some = range(start, min(start + at_once, count))
            activations, embeddings = model.image_activations(self._batch(some))
            patches.append(activations.patches)
            frozen.append(embeddings)
            if start == 0:
                self._reserve(activations, count)
            self._keep(start, activations)
        self._patches = torch.cat(patches)
        self.frozen = torch.cat(frozen)

    def take(self, rows: torch.Tensor) -> Activations:
        """Activations (S, B, T, D) of the views with numbers `rows` (S, B)."""
        again = torch.unique(rows[rows >= self._kept])
        if len(again) == 0:
            f_in, f_frozen = self._f_in[rows], self._f_frozen[rows]
        else:
            f_in, f_frozen = self._with_computed(rows, again)
        return self.like.of_images(f_in, f_frozen, self._patches[rows])

    def _reserve(self, activations: Activations, count: int) -> None:
        tokens, width = activations.f_in.shape[1:]
        size = 2 * tokens * width * activations.f_in.element_size()
        self._kept = min(count, memory.CACHE // size)
        self._f_in = activations.f_in.new_empty(self._kept, tokens, width)
        self._f_frozen = torch.empty_like(self._f_in)
        none = activations.f_in[:0]
        self.like = replace(activations, f_in=none, f_frozen=none)

    def _keep(self, start: int, activations: Activations) -> None:
        stop = min(start + len(activations.f_in), self._kept)
        if start < stop:
            self._f_in[start:stop] = activations.f_in[: stop - start]
            self._f_frozen[start:stop] = activations.f_frozen[: stop - start]

    def _with_computed(
        self, rows: torch.Tensor, again: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """f_in and f_frozen of `rows`, of which the views `again` are not kept."""
        f_in = self._f_in.new_empty(*rows.shape, *self._f_in.shape[1:])
        f_frozen = torch.empty_like(f_in)
        kept = rows < self._kept
        f_in[kept], f_frozen[kept] = self._f_in[rows[kept]], self._f_frozen[rows[kept]]
        for some in again.split(self._model.backbone.images_at_once):
            computed = self._model.backbone.image.prefix(
                self._batch(some.tolist()), self._model.config.image.blocks
            )
            for number, view in enumerate(some):
                f_in[rows == view] = computed.f_in[number]
                f_frozen[rows == view] = computed.f_frozen[number]
        return f_in, f_frozen

    def _batch(self, numbers: Sequence[int]) -> torch.Tensor:
        return self._model.backbone.pixels(self._pixels(numbers))


class StoredViews:
    """Views of which all that is asked for is stored, as `EncodedViews`."""

    def __init__(self, activations: Activations, frozen: torch.Tensor) -> None:
        """`activations` are (V, T, D), `frozen` unit embeddings (V, E)."""
        self._activations = activations
        self.frozen = frozen
        none = activations.f_in[:0]
        self.like = replace(activations, f_in=none, f_frozen=none)

    def take(self, rows: torch.Tensor) -> Activations:
        """Activations (S, B, T, D) of the views with numbers `rows` (S, B)."""
        every = self._activations
        return every.of_images(every.f_in[rows], every.f_frozen[rows], every.patches[rows])


@dataclass(frozen=True)
class SupportCache:
    """All views of all support images of some fits, and the images (N,) of each fit among them."""

    views: EncodedViews | StoredViews
    of_image: int
    images: list[torch.Tensor]

    def rows(self, images: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Numbers of the views of images, any shape."""
        return images * self.of_image + views


def encode(model: SignModel, supports: list[SupportImages], config: AugmentConfig) -> SupportCache:
    """Encode all views of all images of the supports; images that they share once."""
    stored = [support.encoded for support in supports if support.encoded is not None]
    if stored:
        return _stored(stored, supports, config)
    unique: dict[str, np.ndarray] = {}
    for support in supports:
        unique.update(zip(support.keys, support.pixels, strict=True))
    position = {key: row for row, key in enumerate(unique)}
    wanted = [(key, view) for key in unique for view in range(config.views)]

    def pixels(numbers: Sequence[int]) -> np.ndarray:
        some = [wanted[number] for number in numbers]
        return np.stack([augment(unique[key], key, view, config) for key, view in some])

    return SupportCache(
        views=EncodedViews(model, pixels, len(wanted)),
        of_image=config.views,
        images=[torch.tensor([position[k] for k in s.keys]) for s in supports],
    )


def _stored(
    stored: list[tuple[Activations, torch.Tensor]],
    supports: list[SupportImages],
    config: AugmentConfig,
) -> SupportCache:
    if config.views > 1 or len(stored) < len(supports):
        raise ValueError("only the unchanged view of images is stored")
    keys = [key for support in supports for key in support.keys]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    position, rows = {key: k for k, key in enumerate(first)}, list(first.values())

    def gathered(name: str) -> torch.Tensor:
        return torch.cat([getattr(activations, name) for activations, _ in stored])[rows]

    names = ("f_in", "f_frozen", "patches")
    activations = stored[0][0].of_images(*map(gathered, names))
    frozen = torch.cat([embeddings for _, embeddings in stored])[rows]
    return SupportCache(
        views=StoredViews(activations, frozen),
        of_image=1,
        images=[torch.tensor([position[key] for key in s.keys]) for s in supports],
    )


def groups_in_memory(
    model: SignModel, supports: list[SupportImages], config: AugmentConfig
) -> list[slice]:
    """Fits that share a cache: as many in a row as it holds, at least one."""
    first = supports[0]
    if len(supports) == 1 or first.encoded is not None:
        return [slice(0, len(supports))]
    one, _ = model.image_activations(model.backbone.pixels(first.pixels[:1]))
    room = memory.CACHE // (2 * one.f_in.nbytes * config.views)
    groups, start, images = [], 0, set(first.keys)
    for index, support in enumerate(supports):
        images = images | set(support.keys)
        if len(images) > room and index > start:
            groups.append(slice(start, index))
            start, images = index, set(support.keys)
    return [*groups, slice(start, len(supports))]
