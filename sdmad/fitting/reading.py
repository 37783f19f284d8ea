"""Readers of labelled images: Ray tasks, one for each shard."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

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


def check_names(images: Iterable[tuple[str, str]], base: str) -> None:
    """Raise `UserError` if images, given as (archive, member), are not in the archive at `base`.

    The message has examples of both sides.
    """
    by_archive = _by_archive(images)
    reader: Any = ray.remote(num_cpus=READER_CPUS, num_returns=2, max_retries=3)(missing_members)
    refs = {
        archive: reader.remote(base, archive, sorted({split_frame(m)[0] for _, m in wanted}))
        for archive, wanted in by_archive.items()
    }
    missing: list[tuple[str, str]] = []
    stored: list[tuple[str, str]] = []
    with mistakes_surface():
        for archive, (absent, others) in refs.items():
            names = ray.get(absent)
            missing += [(archive, name) for name in names]
            if names:
                stored += [(archive, name) for name in ray.get(others)]
    if not missing:
        return
    if not stored:
        listed = islice(storage.list_objects(base), 2 * SHOWN)
        stored = [("", storage.relative(entry.uri, base)) for entry in listed]
    total = sum(map(len, by_archive.values()))
    raise UserError(
        f"{len(missing)} of {total} images of split pool are not in the archive {base}: "
        f"{some(missing)}{near_miss(missing, stored)}; the archive has "
        f"{some(stored[:SHOWN]) or 'no other images'}; correct archive and member in the label "
        "table, or remove these rows"
    )


def _by_archive(images: Iterable[tuple[str, str]]) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for image in images:
        found.setdefault(image[0], set()).add(image)
    return found


def read_images(
    images: Iterable[tuple[str, str]], base: str, spec: ImageSpec
) -> tuple[dict[str, Any], list[str]]:
    """Decode `images`, given as (archive, member) below `base`.

    Returns a Ray reference for each archive, to a dictionary from (archive, member) to uint8 pixels
    (height, width, 3), and a sentence for each image that could not be read
    (`sdmad.archive.selected.decode_members`).
    """
    by_archive = _by_archive(images)
    reader = ray.remote(num_cpus=READER_CPUS, num_returns=2, max_retries=3)(decode_members)
    refs: dict[str, tuple[Any, Any]] = {
        archive: reader.remote(base, sorted(some), spec)  # type: ignore[misc]
        for archive, some in by_archive.items()
    }
    with mistakes_surface():
        problems = [p for _, found in refs.values() for p in ray.get(found)]
    return {archive: pixels for archive, (pixels, _) in refs.items()}, problems
