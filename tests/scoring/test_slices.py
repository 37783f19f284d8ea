import numpy as np
import pytest
import torch

from sdmad import Detector
from sdmad.phantoms.task import draw_example
from sdmad.scoring.slices import SlicedDetector, slices


@pytest.mark.parametrize(
    ("images", "threads", "expected"),
    [
        (64, 1, 1),
        (64, 2, 2),
        (64, 4, 4),
        (64, 7, 1),
        (64, 6, 3),
        (64, 32, 4),
        (31, 2, 1),
        (1, 4, 1),
    ],
)
def test_slices_are_as_many_as_threads_unless_they_would_be_small(
    images, threads, expected
) -> None:
    assert slices(images, threads) == expected


@pytest.mark.parametrize("images", [64, 37, 3])
def test_slices_score_as_the_whole_batch(training_run, images) -> None:
    detector = Detector.load(str(training_run), "cpu")
    pixels = np.stack([draw_example(k, "test").image for k in range(images)])
    pixels = np.repeat(pixels[..., None], 3, axis=3)
    threads = torch.get_num_threads()
    whole, sliced = detector.score_pixels(pixels), SlicedDetector(detector, 2).score_pixels(pixels)
    assert np.allclose(sliced.seeds, whole.seeds, atol=1e-5)
    assert sliced.findings == whole.findings
    for ours, theirs in zip(sliced.signs, whole.signs, strict=True):
        assert [e.sign for e in ours] == [e.sign for e in theirs]
    assert torch.get_num_threads() == threads
