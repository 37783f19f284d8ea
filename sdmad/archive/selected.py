"""Decode chosen images of an archive: the supports of fits, the examples of a report.

Reader processes import this module, so it must not import torch or a backbone.
"""

import numpy as np

from sdmad.archive.decode import decode
from sdmad.archive.limits import DecodeError
from sdmad.archive.members import read_members
from sdmad.archive.naming import split_frame
from sdmad.archive.preprocess import ImageSpec


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
    pixels, problems = {}, []
    for image, (archive, name, frame) in files.items():
        shown = "/".join(filter(None, image))
        try:
            pixels[image] = decode(contents[archive, name], spec, frame)
        except KeyError:
            problems.append(f"the label table names {shown}, which is not in the archive {base}")
        except DecodeError as error:
            problems.append(f"the support image {shown} cannot be used: {error}")
    return pixels, problems
