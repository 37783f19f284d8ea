"""Units a second that the driver of a scoring run writes to storage that answers slowly.

    python benchmarks/driver_pace.py

Runs the driver's own loop (`sdmad.scoring.run`: collect rows, encode, write two objects a unit,
count) on rows that are ready, without readers, detectors and Ray. Storage is an S3 server in a
process of its own on this machine, which waits 30 ms before it answers a request. The units are
written in the eight threads of `sdmad.scoring.writing`, and one after the other. Prints units a
second of both and their ratio.
"""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from statistics import median
from typing import Annotated, Any
from unittest import mock

import boto3
import numpy as np
import pyarrow as pa
import typer

from sdmad.archive.units import WorkUnit
from sdmad.runtime.cluster import Resources
from sdmad.scoring import run, tables, writing
from sdmad.scoring.ledger import END_OF_UNIT, START, extend
from sdmad.scoring.plan import SCORING, Plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.tables import ScoreColumns, score_rows
from sdmad.scoring.tally import Tally
from sdmad.scoring.writing import UnitWriter

BUCKET = "pace"
COLUMNS = ScoreColumns([f"category_{k}" for k in range(6)], num_seeds=1, per_seed=False)
BATCH = 64
SERVER = """
import sys, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
from sdmad.demo.local_s3 import hold_objects_once
hold_objects_once()
served = DomainDispatcherApplication(create_backend_app)
def delayed(environment, respond):
    time.sleep(float(sys.argv[2]) / 1000)
    return served(environment, respond)
run_simple("127.0.0.1", int(sys.argv[1]), delayed, threaded=True)
"""


@contextmanager
def slow_s3(milliseconds: float) -> Iterator[None]:
    """An S3 server that waits before it handles a request, and this process set up for it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    os.environ |= keys | {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-c", SERVER, str(port), str(milliseconds)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert server.poll() is None, "the S3 server did not start"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield
    finally:
        server.terminate()
        server.wait(10)


class OneAfterTheOther(UnitWriter[Any]):
    """Writes each unit before the driver goes on."""

    def add(self, unit: str, rows: pa.Table) -> None:
        self._results.append(self.write(unit, rows))


def batches(unit: str, shard: str, rows: int) -> list[pa.Table]:
    """The rows of a unit as a detector returns them."""
    uris = [f"s3://bucket/{shard}#{k}.png" for k in range(rows)]
    digests = [START]
    for k, uri in enumerate(uris):
        digests.append(extend(digests[-1], uri, f"{k}.png", ""))
    texts = {
        "uri": [*uris, ""],
        "archive": [shard] * rows + [""],
        "member": [f"{k}.png" for k in range(rows)] + [""],
        "reason": [""] * (rows + 1),
        "stage": [""] * rows + ["end"],
        "unit": [unit] * (rows + 1),
    }
    table = score_rows(None, np.arange(0), rows + 1, COLUMNS)
    chance = np.random.default_rng(0)
    for k, field in enumerate(table.schema):
        if pa.types.is_float32(field.type):
            values = pa.array(chance.random(rows + 1, np.float32))
            table = table.set_column(k, field, values)
    for name, values in texts.items():
        table = table.add_column(0, pa.field(name, pa.string(), nullable=False), [values])
    numbers = {"index": [*range(rows), END_OF_UNIT]}
    numbers |= {"digest": [*digests[1:], digests[-1]], "before": digests}
    for name, values in numbers.items():
        table = table.append_column(name, pa.array(values, pa.int64()))
    for stage in ("read", "decode", "model"):
        seconds = pa.array(np.full(rows + 1, 1e-3, np.float32))
        table = table.append_column(f"{stage}_seconds", seconds)
    return [table.slice(k, BATCH) for k in range(0, table.num_rows, BATCH)]


def pace(units: list[WorkUnit], ready: list[pa.Table], output: str, writer: type) -> float:
    """Units a second of the driver's loop."""
    tally = Tally()
    replaced = {
        "stream_rows": lambda *arguments: iter(ready),
        "connect": lambda: Resources(2, 0, fixed=True),
        "UnitWriter": writer,
    }
    begin = time.perf_counter()
    with mock.patch.multiple(run, **replaced), redirect_stderr(io.StringIO()):
        run._stream(
            Plan(units, set()),
            run.Task("pace", "s3://bucket", SCORING, COLUMNS.schema, {}, lambda _: None),
            PipelineConfig(precision="single"),
            output,
            tally,
            {"run": "pace"},
        )
    seconds = time.perf_counter() - begin
    assert tally.units == len(units) == len(tables.done_units(output))
    return len(units) / seconds


def main(
    units: Annotated[int, typer.Option(help="Work units.")] = 200,
    rows: Annotated[int, typer.Option(help="Images of a unit.")] = 256,
    milliseconds: Annotated[
        float, typer.Option(help="Time that the server waits before it handles a request.")
    ] = 30,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
) -> None:
    """Write units in threads and one after the other; print units a second and the ratio."""
    shards = [f"{k:05d}.tar" for k in range(units)]
    work = [WorkUnit(f"{k:016x}", "tar", "s3://bucket", ()) for k in range(units)]
    ready = [
        batch
        for unit, shard in zip(work, shards, strict=True)
        for batch in batches(unit.id, shard, rows)
    ]
    found: dict[str, list[float]] = {"threads": [], "one": []}
    with slow_s3(milliseconds):
        for turn in range(repeats):
            for name, writer in (("threads", UnitWriter), ("one", OneAfterTheOther)):
                output = f"s3://{BUCKET}/{name}-{turn}"
                found[name].append(pace(work, ready, output, writer))
    ratios = [a / b for a, b in zip(found["threads"], found["one"], strict=True)]
    print(f"{units} units of {rows} images, {milliseconds:g} ms a request")
    for label, values, unit in (
        (f"{writing.THREADS} threads", found["threads"], " units/s"),
        ("one after the other", found["one"], " units/s"),
        ("ratio", ratios, " x"),
    ):
        print(f"{label}: {median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    typer.run(main)
