"""The Ray Data pipeline: units -> read and decode -> detector -> score rows.

Reading and decoding are one operator: encoded bytes never cross between processes, and pixels
cross once, as uint8 at the backbone's size. Each unit ends with a row of index -1 whose `total` is
the number of its images, so that the driver knows when a unit is whole.
"""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from pydantic import BaseModel, ConfigDict, Field
from ray.util.annotations import RayDeprecationWarning

from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.units import WorkUnit
from sdmad.backbones.precision import Precision, half_type
from sdmad.detector import Detector, Scores
from sdmad.errors import UserError
from sdmad.runtime.cluster import THREADS_SLEEP, Resources, gpus_each, mistakes_surface, node_cpus
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.slices import SlicedDetector
from sdmad.scoring.tables import ScoreColumns

# Finite: a task or an actor that kills its process again and again ends the run with an error.
RETRIES = 4
# What C libraries read when a detector's process starts. glibc hands every large buffer that is
# freed back to the kernel, which clears its pages anew for the next layer: thousands of page faults
# an image, a tenth of a detector's time on CPUs. One arena that is never trimmed keeps them; a
# detector needs the same buffers for every batch. While it loads, and beside a GPU, its threads
# share operations.
DETECTOR_ENVIRONMENT = THREADS_SLEEP | {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}
# Seconds without a row before Ray Data ends a run: nodes may be long in coming.
LONGEST_WAIT = 4 * 3600.0
# Each unit is an object that the driver puts before the first is read: a millisecond and 4.5 KB.
# More units go one execution after the other, which starts detectors anew.
UNITS_AT_ONCE = 10_000
# A detector on CPUs computes in as many threads as the pool has cores for each; where that is not
# known, on a cluster that grows, in so many.
THREADS = 4


class PipelineConfig(BaseModel):
    """How much of the cluster a scoring run takes; what is None follows the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    batch_size: int = Field(default=64, ge=1, description="images in one forward pass")
    detectors: tuple[int, int] | None = Field(default=None, description="actors, least and most")
    detector_cpus: float | None = Field(default=None, gt=0)
    detector_gpus: float | None = Field(default=None, ge=0)
    detector_threads: int | None = Field(default=None, ge=1)
    reader_cpus: float | None = Field(default=None, gt=0)
    decode_seconds: float = Field(default=120, gt=0, description="longest for one image")
    precision: Precision = "auto"

    @property
    def computed(self) -> Precision:
        """The precision that a filled pipeline computes in: `single` or `half`."""
        half = self.precision == "half" or (self.precision == "auto" and bool(self.detector_gpus))
        return "half" if half else "single"

    def fill(self, resources: Resources) -> "PipelineConfig":
        """Every value set: one GPU a detector where there are GPUs, CPUs shared in halves else."""
        gpus = gpus_each(self.detector_gpus, resources, "--detector-gpus 1 --detectors 1:8")
        # An empty cluster may get small nodes: half a core each leaves room for a reader.
        small = resources.cpus <= 4
        most = int(resources.gpus // gpus) if gpus else int(resources.cpus) // THREADS
        detectors = self.detectors or (1, max(1, most))
        threads = max(1, int(resources.cpus) // detectors[1]) if resources.fixed else THREADS
        filled = PipelineConfig(
            batch_size=self.batch_size,
            detectors=detectors,
            detector_cpus=self.detector_cpus or (0.5 if small else 1.0),
            detector_gpus=gpus,
            detector_threads=self.detector_threads or threads,
            reader_cpus=self.reader_cpus or (0.5 if small else 1.0),
            decode_seconds=self.decode_seconds,
            precision=self.precision,
        )
        filled._check_room(resources)
        return filled

    def room(self, resources: Resources) -> tuple[int, int]:
        """Readers and detectors that `resources` hold of a filled pipeline, each at least one."""
        if self.detectors is None:
            raise AssertionError("a filled pipeline says how many detectors it takes")
        each, gpus = self.detector_cpus or 1.0, self.detector_gpus or 0.0
        fit = resources.gpus / gpus if gpus else resources.cpus / each
        detectors = max(1, min(self.detectors[1], int(fit)))
        readers = (resources.cpus - detectors * each) / (self.reader_cpus or 1.0)
        return max(1, int(readers)), detectors

    def _check_room(self, resources: Resources) -> None:
        """Raise `UserError` for a pool that this machine can never start: it would wait forever."""
        if not resources.fixed or self.detectors is None:
            return
        if not self.detector_gpus:
            half_type(torch.device("cpu"), self.precision)
        least = self.detectors[0]
        cpus = least * (self.detector_cpus or 0) + (self.reader_cpus or 0)
        gpus = least * (self.detector_gpus or 0)
        for name, needed, there in (("CPUs", cpus, resources.cpus), ("GPUs", gpus, resources.gpus)):
            if needed > there:
                raise UserError(
                    f"{least} detectors and one reader need {needed:g} {name}, and this machine "
                    f"has {there:g}; give fewer detectors, or less to each, or connect to a "
                    "cluster with RAY_ADDRESS"
                )


class DetectorActor:
    """One detector in a process of its own: decoded batches in, score rows out."""

    def __init__(
        self,
        uri: str,
        backbone: str | None,
        columns: ScoreColumns,
        threads: int,
        device: str | None,
        precision: Precision,
    ) -> None:
        threads = min(threads, node_cpus())
        torch.set_num_threads(threads)
        # In a thread that ends: two OpenMP teams are more threads than cores, which then sleep at
        # every barrier: an eighth of the speed.
        with ThreadPoolExecutor(1) as loading:
            detector = loading.submit(Detector.load, uri, device, backbone, precision).result()
        sliced = detector.backbone.device.type == "cpu" and threads > 1
        self.detector = SlicedDetector(detector, threads) if sliced else detector
        self.columns = columns

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        start = time.monotonic()
        good = np.flatnonzero([stage == "" for stage in batch["stage"]])
        scores = self.detector.score_pixels(batch["pixels"][good]) if len(good) else None
        seconds = (time.monotonic() - start) / max(1, len(good))
        table = score_rows(scores, good, len(batch["unit"]), self.columns)
        for name in ("unit", "stage", "reason", "member", "archive", "uri"):
            values = pa.array([str(v) for v in batch[name]], pa.string())
            table = table.add_column(0, pa.field(name, pa.string(), nullable=False), values)
        for name in ("index", "total", "read_seconds", "decode_seconds"):
            table = table.append_column(name, pa.array(batch[name]))
        model_seconds = np.zeros(len(batch["unit"]), np.float32)
        model_seconds[good] = seconds
        return table.append_column("model_seconds", pa.array(model_seconds))


def score_rows(
    scores: Scores | None, good: np.ndarray, count: int, columns: ScoreColumns
) -> pa.Table:
    """The score columns for `count` rows, filled at the positions `good`, zero elsewhere."""

    def spread_out(values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        filled = np.zeros((count, *shape), np.float32)
        if values is not None:
            filled[good] = values
        return filled

    def lists(rows: list[Any] | None) -> list[Any]:
        filled: list[Any] = [[] for _ in range(count)]
        for position, row in zip(good, rows or [], strict=True):
            filled[position] = row
        return filled

    categories = len(columns.categories)
    anomaly = spread_out(scores.anomaly if scores else None, ())
    mean = spread_out(scores.categories if scores else None, (categories,))
    spread = spread_out(scores.spread if scores else None, (categories,))
    data: dict[str, Any] = {"anomaly_score": anomaly}
    for c, name in enumerate(columns.categories):
        data[f"score_{name}"] = mean[:, c]
        data[f"spread_{name}"] = spread[:, c]
    data["findings"] = lists(scores.findings if scores else None)
    data["uncertain"] = lists(scores.uncertain if scores else None)
    signs = [[vars(e) for e in row] for row in scores.signs] if scores else None
    data["signs"] = lists(signs)
    if columns.per_seed:
        seeds = spread_out(scores.seeds if scores else None, (categories, columns.num_seeds))
        for c, name in enumerate(columns.categories):
            flat = pa.array(np.ascontiguousarray(seeds[:, c]).reshape(-1))
            data[f"seeds_{name}"] = pa.FixedSizeListArray.from_arrays(flat, columns.num_seeds)
    wanted = columns.schema
    fields = [wanted.field(name) for name in data]
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value, field.type)
        for value, field in zip(data.values(), fields, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


@dataclass(frozen=True)
class DetectorSource:
    """Where the detector of a run comes from."""

    uri: str
    backbone: str | None
    spec: ImageSpec


def stream_scores(
    units: list[WorkUnit],
    source: DetectorSource,
    columns: ScoreColumns,
    config: PipelineConfig,
    run: str,
) -> Iterator[pa.Table]:
    """Score rows of all units as they come, mixed; `config` is filled, `run` names the logs."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S" not in os.environ:
        context.execution_no_progress_timeout_s = LONGEST_WAIT
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Ray 2.60 has no other way to bound retries than the arguments it deprecates for 2.64.
    warnings.simplefilter("ignore", RayDeprecationWarning)
    if config.detectors is None or config.detector_threads is None:
        raise AssertionError("the pipeline runs with a filled configuration")
    least, most = config.detectors
    device = None if config.detector_gpus else "cpu"
    for start in range(0, len(units), UNITS_AT_ONCE):
        payloads = [{"payload": unit.to_json()} for unit in units[start : start + UNITS_AT_ONCE]]
        data: ray.data.Dataset = ray.data.from_items(payloads, override_num_blocks=len(payloads))
        data = data.map_batches(
            read_and_decode,  # type: ignore[arg-type]
            batch_size=1,
            batch_format="numpy",
            fn_kwargs={
                "spec": source.spec,
                "rows": config.batch_size,
                "decode_seconds": config.decode_seconds,
                "run": run,
            },
            num_cpus=config.reader_cpus,
            max_retries=RETRIES,
        )
        data = data.map_batches(
            DetectorActor,
            batch_size=config.batch_size,
            batch_format="numpy",
            fn_constructor_args=(
                source.uri,
                source.backbone,
                columns,
                config.detector_threads,
                device,
                config.precision,
            ),
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            num_cpus=config.detector_cpus,
            num_gpus=config.detector_gpus or None,
            runtime_env={"env_vars": DETECTOR_ENVIRONMENT},
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )
        with mistakes_surface():
            yield from data.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=1
            )


def parse_pool(text: str) -> tuple[int, int]:
    """`2:8` or `4` as least and most actors; `UserError` for anything else."""
    least, _, most = text.partition(":")
    try:
        pool = int(least), int(most or least)
    except ValueError:
        pool = (0, 0)
    if not 1 <= pool[0] <= pool[1]:
        raise UserError(f"detectors {text!r} is not a number or least:most, like 1:4")
    return pool
