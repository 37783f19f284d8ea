"""The actor that holds a model: several batches at once, and the time that they take."""

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from sdmad import Detector
from sdmad.errors import UserError
from sdmad.fits import deserialize
from sdmad.phantoms.task import draw_example
from sdmad.scoring import actor
from sdmad.scoring.actor import BusyTime, DetectorActor
from sdmad.scoring.tables import ScoreColumns
from sdmad.scoring.transport import disclosed

SLOW = 0.1


def batch(first: int, count: int, broken: int) -> dict[str, Any]:
    """Images as readers yield them; the one at `broken` could not be decoded."""
    texts = dict.fromkeys(("unit", "uri", "archive", "member", "reason"), np.array(["x"] * count))
    stages = np.array(["decode" if k == broken else "" for k in range(count)], object)
    numbers = dict.fromkeys(("digest", "before"), np.zeros(count, np.int64))
    seconds = dict.fromkeys(("read_seconds", "decode_seconds"), np.zeros(count, np.float32))
    grey = np.stack([draw_example(first + k, "test").image for k in range(count)])
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    content = {"stage": stages, "index": np.arange(count), "pixels": pixels}
    return texts | numbers | seconds | content


def test_a_driver_does_without_the_backbones_library() -> None:
    """It takes seconds to import, and only detectors need it."""
    script = "import sys, sdmad.scoring.images; print('open_clip' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "False\n"


@pytest.mark.parametrize(("threads", "gpu"), [(1, False), (2, False), (2, True)])
def test_two_batches_at_once_have_the_rows_of_one_after_the_other(
    training_run, monkeypatch, threads, gpu
) -> None:
    """Also where a node promises GPUs that it does not have."""
    monkeypatch.setattr(actor, "node_cpus", lambda: 2)
    detector = Detector.load(str(training_run), "cpu")
    columns = ScoreColumns(detector.categories, detector.num_seeds, per_seed=True)
    model = DetectorActor(str(training_run), None, columns, threads, gpu, "single")
    batches = [batch(10 * k, 6, broken=k if k < 6 else -1) for k in range(8)]

    def comparable(table: pa.Table) -> pa.Table:
        return disclosed(table).drop_columns(["model_seconds"])

    expected = [comparable(model(one)) for one in batches]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: comparable(model(one)), batches))
    assert found == expected


def test_a_second_with_two_threads_at_work_counts_once() -> None:
    busy, together = BusyTime(), Barrier(2)

    def work() -> float:
        together.wait()
        busy.begin()
        time.sleep(SLOW)
        return busy.end()

    begin = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        counted = sum(job.result() for job in [pool.submit(work) for _ in range(2)])
    assert SLOW <= counted <= time.monotonic() - begin


def test_time_between_two_batches_does_not_count() -> None:
    busy = BusyTime()
    busy.begin()
    busy.end()
    time.sleep(SLOW)
    busy.begin()
    assert busy.end() < SLOW


def test_too_little_memory_of_a_gpu_is_one_sentence(training_run, monkeypatch) -> None:
    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(actor, "node_cpus", lambda: 1)
    columns = ScoreColumns(["one"], 1, per_seed=False)
    model = DetectorActor(str(training_run), None, columns, 1, False, "single")
    monkeypatch.setattr(model, "rows", no_memory)
    with pytest.raises(UserError, match=r"batches of 6 images; give a smaller --batch-size"):
        model(batch(0, 6, broken=-1))


def test_a_detector_of_another_backbone_is_one_sentence(
    training_run, tmp_path, monkeypatch
) -> None:
    """The fits name other weights than those of the backbone."""
    monkeypatch.setattr(actor, "node_cpus", lambda: 1)
    run = Path(shutil.copytree(training_run, tmp_path / "run"))
    for path in run.rglob("*.safetensors"):
        content = path.read_bytes()
        known = deserialize(content, str(path)).provenance.identity.weights.encode()
        path.write_bytes(content.replace(known, b"0" * len(known)))
    columns = ScoreColumns(["one"], 1, per_seed=False)
    model = DetectorActor(str(run), None, columns, 1, False, "single")
    with pytest.raises(UserError, match=r"was fitted to another backbone .* fit again"):
        model(batch(0, 6, broken=-1))
