"""Chosen images: frames, names that look like frames, and what is missing."""

import numpy as np
from PIL import Image

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from tests.archive.test_pages import save
from tests.helpers import encoded

SPEC = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")


def test_frames_and_files_that_are_called_like_frames_are_told_apart(tmp_path) -> None:
    cine = save("GIF", [Image.new("L", (8, 8), grey) for grey in (1, 2, 3)])
    storage.write_bytes(str(tmp_path / "cine.gif"), cine)
    storage.write_bytes(str(tmp_path / "x.png#frame=2"), encoded(9))
    images = [("", "cine.gif#frame=3"), ("", "x.png#frame=2"), ("", "./cine.gif#frame=1")]
    pixels, problems = decode_members(str(tmp_path), images, SPEC)
    assert {image: int(np.median(found)) for image, found in pixels.items()} == {
        images[0]: 3,
        images[1]: 9,
        images[2]: 1,
    }
    assert problems == []


def test_what_is_missing_or_has_several_frames_is_a_problem(tmp_path) -> None:
    storage.write_bytes(str(tmp_path / "c.gif"), save("GIF", [Image.new("L", (8, 8), 1)] * 1))
    cine = save("GIF", [Image.new("L", (8, 8), grey) for grey in (1, 2, 3)])
    storage.write_bytes(str(tmp_path / "cine.gif"), cine)
    images = [("", "cine.gif"), ("", "cine.gif#frame=4"), ("s.tar", "1.png")]
    pixels, problems = decode_members(str(tmp_path), images, SPEC)
    assert not pixels
    assert sorted(problem.rpartition(":")[2] for problem in problems)[1:] == [
        " the file has 3 frames; choose one with #frame=<number>",
        f"the label table names s.tar/1.png, which is not in the archive {tmp_path}",
    ]
