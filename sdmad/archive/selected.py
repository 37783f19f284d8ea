"""Decode chosen images of an archive: the supports of fits, the examples of a report.

Reader processes import this module, so it must not import torch or a backbone.
"""

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from sdmad.archive.decode import Opened
from sdmad.archive.limits import DecodeError
from sdmad.archive.members import read_members
from sdmad.archive.naming import split_frame
from sdmad.archive.preprocess import ImageSpec

Image = tuple[str, str]


def decode_members(
    base: str, images: list[tuple[str, str]], spec: ImageSpec
) -> tuple[dict[tuple[str, str], np.ndarray], list[str]]:
    """Pixels (height, width, 3) uint8 of images (archive, member).

    Also a sentence for each image that is missing or cannot be decoded.
    """
    files = {image: (image[0], *split_frame(image[1])) for image in images}
    contents = read_members(base, {(archive, name) for archive, name, _ in files.values()})
    # A file may itself be called `x#frame=2`.
    literal = [image for image, file in files.items() if file[:2] not in contents]
    contents |= read_members(base, literal) if literal else {}
    files |= {image: (*image, None) for image in literal}
    found = dict(_decoded(files, contents, spec))
    pixels, problems = {}, []
    for image in files:
        shown, answer = "/".join(filter(None, image)), found[image]
        if answer is None:
            problems.append(f"the label table names {shown}, which is not in the archive {base}")
        elif isinstance(answer, DecodeError):
            problems.append(f"the labelled image {shown} cannot be used: {answer}")
        else:
            pixels[image] = answer
    return pixels, problems


def _decoded(
    files: dict[Image, tuple[str, str, int | None]], contents: dict[Image, bytes], spec: ImageSpec
) -> Iterator[tuple[Image, np.ndarray | DecodeError | None]]:
    """Pixels of each image, why there are none, or None where there is no such file.

    A file is opened once for all of its images: unpacking a volume takes seconds.
    """
    by_file = groupby(sorted(files, key=lambda image: files[image][:2]), lambda i: files[i][:2])
    for place, images in by_file:
        content = contents.get(place)
        opened: Opened | DecodeError | None = None
        if content is not None:
            try:
                opened = Opened(content, spec)
            except DecodeError as error:
                opened = error
        for image in images:
            if not isinstance(opened, Opened):
                yield image, opened
                continue
            try:
                yield image, opened.decode(files[image][2])
            except DecodeError as error:
                yield image, error
