"""Scoring a batch in slices, one for each thread."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from sdmad import Detector
from sdmad.phantoms.task import draw_example
from sdmad.scoring.slices import SlicedDetector


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("threads_as_before")
@pytest.mark.parametrize("count", [1, 2, 23])
def test_scores_of_slices_equal_those_of_the_whole_batch(training_run, count) -> None:
    detector = Detector.load(str(training_run), "cpu")
    pixels = np.stack(
        [detector.spec.fit(Image.fromarray(draw_example(k, "test").image)) for k in range(count)]
    )
    whole, sliced = detector.score_pixels(pixels), SlicedDetector(detector, 3).score_pixels(pixels)
    for name in ("anomaly", "categories", "spread", "seeds", "similarities"):
        found, expected = getattr(sliced, name), getattr(whole, name)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (sliced.findings, sliced.uncertain) == (whole.findings, whole.uncertain)
    named = [[(e.category, e.sign) for e in row] for row in whole.signs]
    assert [[(e.category, e.sign) for e in row] for row in sliced.signs] == named
