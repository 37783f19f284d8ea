"""Readers of labelled images: Ray tasks, one for each shard or group of loose images."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import ray

from sdmad import storage
from sdmad.archive.members import missing_members
from sdmad.archive.naming import split_frame
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.errors import UserError
from sdmad.inputs.matching import SHOWN, near_miss, some
from sdmad.runtime.cluster import mistakes_surface

# Half a core, because a reader waits for storage more than it computes.
READER_CPUS = 0.5
LOOSE_IMAGES_PER_TASK = 64
Image = tuple[str, str]


def check_names(images: Iterable[Image], base: str) -> None:
    """Raise `UserError` if images, given as (archive, member), are not in the archive at `base`.

    The message has examples of both sides.
    """
    options: Any = ray.remote(num_cpus=READER_CPUS, num_returns=2, max_retries=3)
    reader = options(missing_members)
    waiting, total = [], 0
    for group in groups(images):
        total += len(group)
        members = sorted({split_frame(member)[0] for _, member in group})
        waiting.append((group[0][0], *reader.remote(base, group[0][0], members)))
    missing: list[Image] = []
    stored: list[Image] = []
    with mistakes_surface():
        for archive, absent, others in waiting:
            names = ray.get(absent)
            missing += [(archive, name) for name in names]
            if names:
                stored += [(archive, name) for name in ray.get(others)]
    if not missing:
        return
    if not stored:
        listed = islice(storage.list_objects(base), 2 * SHOWN)
        stored = [("", storage.relative(entry.uri, base)) for entry in listed]
    raise UserError(
        f"{len(missing):,} of {total:,} images of split pool are not in the archive {base}: "
        f"{some(missing)}{near_miss(missing, stored)}; the archive has "
        f"{some(stored[:SHOWN]) or 'no other images'}; correct archive and member in the label "
        "table, or remove these rows"
    )


def read_images(
    images: Iterable[Image], base: str, spec: ImageSpec
) -> tuple[dict[Image, Any], list[str]]:
    """Decode `images`, given as (archive, member) below `base`.

    Returns for each image a Ray reference that `fetch` takes, and a sentence for each image that
    could not be read (`sdmad.archive.selected.decode_members`).
    """
    options: Any = ray.remote(num_cpus=READER_CPUS, num_returns=2, max_retries=3)
    reader = options(decode_members)
    refs: dict[Image, Any] = {}
    waiting = []
    for group in groups(images):
        pixels, problems = reader.remote(base, group, spec)
        refs |= dict.fromkeys(group, pixels)
        waiting.append(problems)
    with mistakes_surface():
        return refs, [problem for found in waiting for problem in ray.get(found)]


def refuse(problems: list[str]) -> None:
    """Raise `UserError` if there are sentences on images that could not be read."""
    if problems:
        more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{problems[0]}{more}; replace such images, or remove their rows from the label table"
        )


def groups(images: Iterable[Image]) -> list[list[Image]]:
    """What one task reads: the images of one shard, or `LOOSE_IMAGES_PER_TASK` loose ones."""
    by_archive: dict[str, set[Image]] = {}
    for image in images:
        by_archive.setdefault(image[0], set()).add(image)
    loose = sorted(by_archive.pop("", ()))
    cuts = range(0, len(loose), LOOSE_IMAGES_PER_TASK)
    return [
        *(sorted(some) for some in by_archive.values()),
        *(loose[start : start + LOOSE_IMAGES_PER_TASK] for start in cuts),
    ]


def fetch(images: Iterable[Image], refs: dict[Image, Any]) -> dict[Image, np.ndarray]:
    """Pixels (height, width, 3) uint8 of at least these images, from what `read_images` returns."""
    pixels: dict[Image, np.ndarray] = {}
    for part in ray.get(list(dict.fromkeys(refs[image] for image in images))):
        pixels.update(part)
    return pixels
