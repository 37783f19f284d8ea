"""A detector on a CPU that gives each thread a slice of the batch.

PyTorch by itself splits each operation among the threads, which then wait for each other at its
end. benchmarks/thread_waits.py measures the difference.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdmad.scores import Scores, concatenate

if TYPE_CHECKING:
    from sdmad.detector import Detector


class SlicedDetector:
    """Scores batches in `threads` threads; sets PyTorch to one thread for each operation."""

    def __init__(self, detector: "Detector", threads: int) -> None:
        self.detector, self.threads = detector, threads
        torch.set_num_threads(1)
        _ = detector.scorer  # Created here, before several threads ask for it.
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def score_pixels(self, pixels: np.ndarray) -> Scores:
        """Like `Detector.score_pixels`, for at least one image."""
        slices = np.array_split(pixels, min(self.threads, len(pixels)))
        return concatenate(list(self._pool.map(self.detector.score_pixels, slices)))
