"""A detector in several threads of a CPU, each with a slice of the batch.

PyTorch's own way is to share every operation among threads, which wait for each other at its end;
benchmarks/thread_waits.py shows what slices save.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from sdmad.detector import Detector, Scores, concatenate


class SlicedDetector:
    """Scores batches in `threads` threads; PyTorch gets one for each operation in this process."""

    def __init__(self, detector: Detector, threads: int) -> None:
        self.detector, self.threads = detector, threads
        torch.set_num_threads(1)
        _ = detector.scorer  # Made once, before threads ask for it.
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def score_pixels(self, pixels: np.ndarray) -> Scores:
        """As `Detector.score_pixels`, for at least one image."""
        slices = np.array_split(pixels, min(self.threads, len(pixels)))
        return concatenate(list(self._pool.map(self.detector.score_pixels, slices)))
