"""Readers of labelled images: Ray tasks, one for each shard."""

from collections.abc import Iterable
from typing import Any

import ray

from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.runtime.cluster import mistakes_surface

# Half a core, because a reader waits for storage more than it computes.
READER_CPUS = 0.5


def read_images(
    images: Iterable[tuple[str, str]], base: str, spec: ImageSpec
) -> tuple[dict[str, Any], list[str]]:
    """Decode `images`, given as (archive, member) below `base`.

    Returns a Ray reference for each archive, to a dictionary from (archive, member) to uint8 pixels
    (height, width, 3), and a sentence for each image that could not be read
    (`sdmad.archive.selected.decode_members`).
    """
    by_archive: dict[str, set[tuple[str, str]]] = {}
    for image in images:
        by_archive.setdefault(image[0], set()).add(image)
    reader = ray.remote(num_cpus=READER_CPUS, num_returns=2, max_retries=3)(decode_members)
    refs: dict[str, tuple[Any, Any]] = {
        archive: reader.remote(base, sorted(some), spec)  # type: ignore[misc]
        for archive, some in by_archive.items()
    }
    with mistakes_surface():
        problems = [p for _, found in refs.values() for p in ray.get(found)]
    return {archive: pixels for archive, (pixels, _) in refs.items()}, problems
