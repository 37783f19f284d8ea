"""CPU time that an image, a batch and a second cost the driver of a scoring run.

    python benchmarks/driver_cost.py

Runs the driver as it is (`sdmad.scoring.run`: Ray Data, ledger, Parquet, counts), with readers that
make up tiny images and an actor that makes up scores, so that only Ray limits the rate. Units of
1,000 images, written to local disk. Two archives for each size of batch: the difference of their
CPU time over that of their images is the cost of an image without start-up; its inverse is how many
images a second one driver can take. CPU seconds are those of the driver's process alone.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from statistics import median
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from peers.ranges import ranged

from sdmad.archive.units import WorkUnit
from sdmad.runtime.cluster import connect
from sdmad.scoring import run
from sdmad.scoring.actor import ModelActor
from sdmad.scoring.pipeline import Operators
from sdmad.scoring.plan import SCORING, Plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.reading import chained
from sdmad.scoring.tables import ScoreColumns, score_rows
from sdmad.scoring.tally import Tally
from sdmad.storage.objects import StoredObject

COLUMNS = ScoreColumns([f"category_{k}" for k in range(6)], num_seeds=8, per_seed=True)
IMAGES_OF_A_UNIT = 1000
PIXELS = np.zeros((8, 8, 3), np.uint8)


def read(
    batch: dict[str, np.ndarray], rows: int, run: str, quarantine: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Rows of a unit as `sdmad.scoring.reading` yields them."""
    unit = WorkUnit.from_json(str(batch["payload"][0]))
    shard = unit.objects[0].uri

    def images() -> Iterator[dict[str, Any]]:
        for k in range(IMAGES_OF_A_UNIT):
            texts = {"uri": f"{shard}#{k}.png", "archive": shard, "member": f"{k}.png"}
            seconds = {"read_seconds": 0.0, "decode_seconds": 0.0}
            rest = {"unit": unit.id, "stage": "", "reason": "", "pixels": PIXELS}
            yield texts | seconds | rest

    yield from chained(unit.id, images(), rows, {"pixels": PIXELS}, run)


class LightActor(ModelActor[ScoreColumns]):
    """Zeros in the place of scores."""

    def __init__(self) -> None:
        super().__init__(lambda: COLUMNS, 1)

    def rows(self, batch: dict[str, np.ndarray], good: np.ndarray) -> pa.Table:
        return score_rows(None, np.arange(0), len(batch["unit"]), self.model)


def cost(units: int, batch_size: int, output: str) -> tuple[float, float]:
    """CPU and wall-clock seconds of the driver for an archive of so many units."""
    work = [
        WorkUnit(f"{k:016x}", "tar", "s3://bucket", (StoredObject(f"s3://bucket/{k}.tar", 1, "e"),))
        for k in range(units)
    ]
    operators = Operators(read, {}, LightActor, ())
    task = run.Task("cost", "s3://bucket", SCORING, COLUMNS.schema, {}, lambda _: operators)
    tally = Tally()
    config = PipelineConfig(batch_size=batch_size, precision="single")
    cpu, wall = time.process_time(), time.perf_counter()
    with redirect_stderr(StringIO()):
        run._stream(Plan(work, set()), task, config, output, tally, {"run": "cost"})
    assert tally.images == units * IMAGES_OF_A_UNIT
    return time.process_time() - cpu, time.perf_counter() - wall


def main(
    units: Annotated[int, typer.Option(help="Units of the larger archive.")] = 100,
    batch_sizes: Annotated[str, typer.Option(help="Images of a batch.")] = "64,256",
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
) -> None:
    """Print the driver's CPU time for an image, and how many images a second it can take."""
    connect()
    few = units // 5
    for batch_size in map(int, batch_sizes.split(",")):
        found, paces = [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                small = cost(few, batch_size, f"{folder}/small")
                large = cost(units, batch_size, f"{folder}/large")
            further = (units - few) * IMAGES_OF_A_UNIT
            found.append(1000 * (large[0] - small[0]) / further)
            paces.append(further / (large[1] - small[1]))
        print(
            f"batches of {batch_size}: {ranged(found, 4)} ms of the driver's CPU an image, at most "
            f"{1000 / median(found):.0f} images/s; measured at {ranged(paces, 0)} images/s",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
