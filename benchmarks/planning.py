"""Time and memory of the driver to plan a large archive and to resume a long run.

    python benchmarks/planning.py

Plans 1,000,000 loose objects, 1,000,000 tars (one work unit each) and 100,000 tars, and resumes the
last with all but ten units finished. Listings are generated in memory, so the requests to storage
are not measured; planning and resuming are the code of a scoring run, writing to local files.
Prints seconds and peak memory of the process.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sdmad import storage
from sdmad.scoring import plan
from sdmad.scoring.tables import part_name
from sdmad.storage import StoredObject

ARCHIVE = "s3://bucket/archive"
METADATA = {
    "archive": ARCHIVE,
    "detector": "0" * 16,
    "per_seed": "false",
    "detector_uri": "s3://bucket/train",
    "categories": "a;b",
}


def listing(count: int, suffix: str) -> Iterator[StoredObject]:
    for k in range(count):
        uri = f"{ARCHIVE}/site-{k % 97:02d}/study-{k // 50:06d}/{k:08d}{suffix}"
        yield StoredObject(uri, 200_000 + k, f"{k:032x}")


def plan_archive(output: str, count: int, suffix: str, left: int) -> dict[str, float]:
    """Plan `count` objects; with `left`, plan again with all but `left` units finished."""
    done: list[StoredObject] = []

    def list_objects(uri: str) -> Iterator[StoredObject]:
        return iter(done) if uri.startswith(output) else listing(count, suffix)

    storage.list_objects = list_objects  # type: ignore[assignment]
    begin = time.perf_counter()
    made = plan.make_plan(ARCHIVE, output, METADATA)
    seconds = {"plan": time.perf_counter() - begin, "units": float(len(made.units))}
    if left:
        finished = [unit.id for unit in made.units[:-left]]
        done += [StoredObject(f"{output}/scores/{part_name(u)}", 1, "") for u in finished]
        begin = time.perf_counter()
        again = plan.make_plan(ARCHIVE, output, METADATA)
        seconds["resume"] = time.perf_counter() - begin
        if len(again.todo) != left:
            raise AssertionError(f"{len(again.todo)} units are left, not {left}")
    return seconds


def apart(*arguments: str) -> dict[str, float]:
    """Run `plan_archive` in a new process, to measure its peak memory."""
    command = [sys.executable, __file__, "--one", *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def main(
    objects: Annotated[int, typer.Option(help="Objects to plan.")] = 1_000_000,
    shards: Annotated[int, typer.Option(help="Tars of the run that is resumed.")] = 100_000,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
    one: Annotated[bool, typer.Option(hidden=True)] = False,
    suffix: Annotated[str, typer.Option(hidden=True)] = ".png",
    left: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Plan and resume; print seconds (median, range) and peak memory."""
    if one:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "scores").mkdir()
            seconds = plan_archive(folder, objects, suffix, left)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(seconds | {"peak": peak}))
        return
    for name, key, arguments in (
        (f"planning {objects:,} loose objects", "plan", (str(objects), "--suffix", ".png")),
        (f"planning {objects:,} tars", "plan", (str(objects), "--suffix", ".tar")),
        (f"planning {shards:,} tars", "plan", (str(shards), "--suffix", ".tar")),
        (
            f"skipping {shards - 10:,} finished units of {shards:,}",
            "resume",
            (str(shards), "--suffix", ".tar", "--left", "10"),
        ),
    ):
        runs = [apart("--objects", *arguments) for _ in range(repeats)]
        times, peaks = sorted(r[key] for r in runs), sorted(r["peak"] for r in runs)
        print(
            f"{name:42s} {times[len(times) // 2]:6.1f} s ({times[0]:.1f} to {times[-1]:.1f}), "
            f"peak {peaks[len(peaks) // 2]:,.0f} MiB, {runs[0]['units']:,.0f} units",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
