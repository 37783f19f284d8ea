"""The detector actor: takes decoded batches and returns score rows."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pyarrow as pa
import torch

from sdmad import logs
from sdmad.backbones.precision import Precision
from sdmad.errors import UserError
from sdmad.method.decision import Decision
from sdmad.runtime.cluster import node_cpus
from sdmad.scoring.slices import SlicedDetector
from sdmad.scoring.tables import ScoreColumns, score_rows
from sdmad.scoring.transport import enclosed

if TYPE_CHECKING:
    from sdmad.detector import Detector

Model = TypeVar("Model")


class BusyTime:
    """Seconds in which at least one of several threads is at work; each second counts once."""

    def __init__(self) -> None:
        self._lock, self._running, self._counted = threading.Lock(), 0, 0.0

    def begin(self) -> None:
        with self._lock:
            if not self._running:
                self._counted = time.monotonic()
            self._running += 1

    def end(self) -> float:
        """The seconds that no thread has counted yet."""
        with self._lock:
            now, self._running = time.monotonic(), self._running - 1
            seconds, self._counted = now - self._counted, now
            return seconds


class ModelActor(ABC, Generic[Model]):
    """A model in its own process, called with the batches of `sdmad.scoring.reading`.

    `load` makes the model, `threads` is the number of CPU threads; with `gpu`, each thread that
    calls has a CUDA stream of its own, so that one batch is copied and its rows are made while the
    GPU computes another. A `UserError` while the model loads is raised at the first call: Ray would
    print one of the constructor with its traceback, once for each restart.
    """

    def __init__(self, load: Callable[[], Model], threads: int, gpu: bool = False) -> None:
        logs.quieten()
        self.threads = min(threads, node_cpus())
        # A node can promise GPUs that PyTorch does not find; then CPUs compute.
        self.gpu = gpu and torch.cuda.is_available()
        self._own, self._busy = threading.local(), BusyTime()
        torch.set_num_threads(self.threads)
        # Load in a thread that ends, so that its OpenMP team does not stay beside that of scoring.
        # With more threads than cores, all sleep at every barrier, at an eighth of the speed.
        self.mistake: UserError | None = None
        with ThreadPoolExecutor(1) as loading:
            try:
                self.model = loading.submit(load).result()
            except UserError as mistake:
                self.mistake = mistake
        if self.gpu:
            torch.cuda.synchronize()  # Other streams read what the default stream has made.

    @contextmanager
    def _stream(self) -> Iterator[None]:
        if not self.gpu:
            yield
            return
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream()
        with torch.cuda.stream(self._own.stream):
            yield

    @abstractmethod
    def rows(self, batch: dict[str, np.ndarray], good: np.ndarray) -> pa.Table:
        """What the model makes of the images at the positions `good`, a row for each position of
        the batch."""

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        if self.mistake:
            raise self.mistake
        good = np.flatnonzero([stage == "" for stage in batch["stage"]])
        self._busy.begin()
        try:
            with self._stream():
                table = self.rows(batch, good)
        except torch.OutOfMemoryError:
            raise UserError(
                f"a GPU has too little memory for batches of {len(batch['unit'])} images; give a "
                "smaller --batch-size, or --detector-calls 1"
            ) from None
        finally:
            seconds = self._busy.end() / max(1, len(good))
        for name in ("unit", "stage", "reason", "member", "archive", "uri"):
            values = pa.array([str(v) for v in batch[name]], pa.string())
            table = table.add_column(0, pa.field(name, pa.string(), nullable=False), values)
        for name in ("index", "digest", "before", "read_seconds", "decode_seconds"):
            table = table.append_column(name, pa.array(batch[name]))
        model_seconds = np.zeros(len(batch["unit"]), np.float32)
        model_seconds[good] = seconds
        return enclosed(table.append_column("model_seconds", pa.array(model_seconds)))


class DetectorActor(ModelActor["Detector"]):
    """A detector on a GPU, or on the CPUs."""

    def __init__(
        self,
        uri: str,
        backbone: str | None,
        columns: ScoreColumns,
        threads: int,
        gpu: bool,
        precision: Precision,
        decision: Decision | None = None,
    ) -> None:
        def load() -> "Detector":
            from sdmad.detector import Detector  # Here, because a driver does without open_clip.

            detector = Detector.load(uri, None if gpu else "cpu", backbone, precision)
            detector.decision = decision
            _ = detector.scorer  # Created here, before several threads ask for it.
            return detector

        super().__init__(load, threads, gpu)
        self.columns = columns
        self.sliced: SlicedDetector | None = None
        if not (self.mistake or self.gpu or self.threads == 1):
            self.sliced = SlicedDetector(self.model, self.threads)

    def rows(self, batch: dict[str, np.ndarray], good: np.ndarray) -> pa.Table:
        model = self.sliced or self.model
        scores = model.score_pixels(some(batch["pixels"], good)) if len(good) else None
        return score_rows(scores, good, len(batch["unit"]), self.columns)


def some(rows: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The rows at the positions `good`; not copied if these are all."""
    return rows if len(good) == len(rows) else rows[good]
