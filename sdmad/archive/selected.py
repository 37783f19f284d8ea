"""Chosen images of an archive, decoded: the supports of fits.

Imported by reader processes, which need neither torch nor a backbone.
"""

import numpy as np

from sdmad.archive.decode import DecodeError, decode
from sdmad.archive.members import read_members
from sdmad.images import ImageSpec


def decode_members(
    base: str, images: list[tuple[str, str]], spec: ImageSpec
) -> tuple[dict[tuple[str, str], np.ndarray], list[str]]:
    """Pixels (H, W, 3) uint8 of images (archive, member), and a sentence for each not to be had."""
    contents = read_members(base, images)
    pixels, problems = {}, []
    for image in images:
        name = "/".join(filter(None, image))
        try:
            pixels[image] = decode(contents[image], spec)
        except KeyError:
            problems.append(f"the label table names {name}, which is not in the archive {base}")
        except DecodeError as error:
            problems.append(f"the support image {name} cannot be used: {error}")
    return pixels, problems
