"""The detector actor: takes decoded batches and returns score rows."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import torch

from sdmad.backbones.precision import Precision
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.method.decision import Decision
from sdmad.runtime.cluster import THREADS_SLEEP, node_cpus
from sdmad.scoring.slices import SlicedDetector
from sdmad.scoring.tables import ScoreColumns, score_rows

# Environment of a detector's process. By default glibc returns every large freed buffer to the
# kernel, and the next layer faults its pages in again: thousands of page faults for each image, a
# tenth of a detector's time on CPUs. A single arena that is never trimmed keeps the buffers, which
# every batch needs again. Sleeping threads matter where PyTorch splits operations among threads:
# while the detector loads, and beside a GPU.
DETECTOR_ENVIRONMENT = THREADS_SLEEP | {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}


Model = TypeVar("Model")


class ModelActor(ABC, Generic[Model]):
    """A model in its own process, called with the batches of `sdmad.scoring.reading`.

    `load` makes the model, `threads` is the number of CPU threads. A `UserError` while it loads is
    raised at the first call: Ray would print one of the constructor with its traceback, once for
    each restart.
    """

    def __init__(self, load: Callable[[], Model], threads: int) -> None:
        self.threads = min(threads, node_cpus())
        torch.set_num_threads(self.threads)
        # Load in a thread that ends, so that its OpenMP team does not stay beside that of scoring.
        # With more threads than cores, all sleep at every barrier, at an eighth of the speed.
        self.mistake: UserError | None = None
        with ThreadPoolExecutor(1) as loading:
            try:
                self.model = loading.submit(load).result()
            except UserError as mistake:
                self.mistake = mistake

    @abstractmethod
    def rows(self, batch: dict[str, np.ndarray], good: np.ndarray) -> pa.Table:
        """What the model makes of the images at the positions `good`, a row for each position of
        the batch."""

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        if self.mistake:
            raise self.mistake
        start = time.monotonic()
        good = np.flatnonzero([stage == "" for stage in batch["stage"]])
        table = self.rows(batch, good)
        seconds = (time.monotonic() - start) / max(1, len(good))
        for name in ("unit", "stage", "reason", "member", "archive", "uri"):
            values = pa.array([str(v) for v in batch[name]], pa.string())
            table = table.add_column(0, pa.field(name, pa.string(), nullable=False), values)
        for name in ("index", "digest", "before", "read_seconds", "decode_seconds"):
            table = table.append_column(name, pa.array(batch[name]))
        model_seconds = np.zeros(len(batch["unit"]), np.float32)
        model_seconds[good] = seconds
        return table.append_column("model_seconds", pa.array(model_seconds))


class DetectorActor(ModelActor[Detector | SlicedDetector]):
    """A detector. `device` None lets it choose."""

    def __init__(
        self,
        uri: str,
        backbone: str | None,
        columns: ScoreColumns,
        threads: int,
        device: str | None,
        precision: Precision,
        decision: Decision | None = None,
    ) -> None:
        super().__init__(lambda: Detector.load(uri, device, backbone, precision), threads)
        self.columns = columns
        if self.mistake or not isinstance(self.model, Detector):
            return
        self.model.decision = decision
        if self.model.backbone.device.type == "cpu" and self.threads > 1:
            self.model = SlicedDetector(self.model, self.threads)

    def rows(self, batch: dict[str, np.ndarray], good: np.ndarray) -> pa.Table:
        scores = self.model.score_pixels(batch["pixels"][good]) if len(good) else None
        return score_rows(scores, good, len(batch["unit"]), self.columns)
