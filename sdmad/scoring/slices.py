"""A detector on several cores: each thread takes a slice of the batch.

Threads of PyTorch meet at the end of every operator, hundreds of times a batch, and wait there for
the one whose core a reader or Ray has taken; slices meet once a batch. The gain is small, and did
not show in whole runs; `benchmarks/scoring_limit.py model` prints both ways in memory.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from sdmad.detector import Detector, Scores, concatenate

# With fewer images the matrix products of a slice are too small to be fast.
LEAST_SLICE = 16


class SlicedDetector:
    """Scores batches with `threads` cores of this process; on a GPU with one thread."""

    def __init__(self, detector: Detector, threads: int) -> None:
        self.detector = detector
        self.threads = threads
        # PyTorch's number of threads belongs to the thread that sets it.
        self.pools = {
            count: ThreadPoolExecutor(
                count, initializer=torch.set_num_threads, initargs=(threads // count,)
            )
            for count in range(1, threads + 1)
            if threads % count == 0
        }

    def score_pixels(self, pixels: np.ndarray) -> Scores:
        """As `Detector.score_pixels`, equal but for the order of sums."""
        count = slices(len(pixels), self.threads)
        parts = np.array_split(pixels, count)
        return concatenate(list(self.pools[count].map(self.detector.score_pixels, parts)))


def slices(images: int, threads: int) -> int:
    """How many slices a batch is cut into: as many as threads, or a divisor of them when they would
    be small; what is left of the threads works inside each slice."""
    fitting = (n for n in range(threads, 0, -1) if threads % n == 0 and images >= n * LEAST_SLICE)
    return next(fitting, 1)
