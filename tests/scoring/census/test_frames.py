"""Images in a file, counted from its structure."""

import io

import numpy as np
import pytest

from sdmad.archive.decode import count_frames
from sdmad.archive.preprocess import ImageSpec
from sdmad.scoring.census.frames import count
from tests.archive.test_tiffs import BYTES, pages

SPEC = ImageSpec((8, 8), (0.5,) * 3, (0.5,) * 3)
NOISE = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)


@pytest.mark.parametrize(
    ("content", "possible"),
    [
        (pages(BYTES), {1}),
        (pages(BYTES, BYTES, BYTES), {3}),
        (pages(BYTES, BYTES[::2, ::2], subfile=1), {1}),
        (pages(BYTES, BYTES, old=2), {1}),
        (pages(BYTES, BYTES > 9, subfile=4), {1}),
        (pages(BYTES, BYTES[::2, ::2], BYTES[::4, ::4]), {1, 2, 3}),
        (pages(BYTES, NOISE), {1, 2}),
    ],
)
def test_pages_of_a_tiff_that_may_be_reduced_copies_leave_the_number_open(
    content, possible
) -> None:
    """Whether they are copies, only their pixels tell."""
    assert count(io.BytesIO(content), "axial") == possible
    assert count_frames(content, SPEC) in possible
