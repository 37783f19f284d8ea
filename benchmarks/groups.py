"""Time and memory of `sdmad aggregate`, `worklist` and `suggest` as the number of images grows.

    python benchmarks/groups.py

Synthetic score tables of 10,000 images each, 8 categories, on a local disk. The group table has the
same 100,000 images, in 25,000 groups, at every size. Prints CPU seconds and peak memory of each
command, in a process of its own and with its imports.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from sdmad.archive.units import WorkUnit
from sdmad.scoring.groups.pooling import Pooling
from sdmad.scoring.groups.run import aggregate_scores, write_groups
from sdmad.scoring.plan import encode_plan, plan_uri
from sdmad.scoring.ranking import Ranking, rank_images
from sdmad.scoring.suggestions.run import suggest
from sdmad.scoring.tables import ScoreColumns, commit_unit, empty_failures
from sdmad.storage import StoredObject, write_bytes

ARCHIVE = "s3://bucket/archive"
CATEGORIES = [f"category_{k}" for k in range(8)]
PART, LISTED, GROUP = 10_000, 100_000, 4


def write_run(output: str, images: int) -> None:
    """A finished run, and a group table beside it."""
    columns = ScoreColumns(CATEGORIES, 1, per_seed=False)
    metadata = {"archive": ARCHIVE, "detector": "0", "categories": ";".join(CATEGORIES)}
    rng, units = np.random.default_rng(0), []
    for number in range(images // PART):
        shard = f"{number:05d}.tar"
        unit = WorkUnit.of("tar", ARCHIVE, [StoredObject(f"{ARCHIVE}/{shard}", 1, "x")])
        names = [f"{k}.png" for k in range(PART)]
        scores = rng.random((PART, len(CATEGORIES)), np.float32)
        data = {"uri": [f"{ARCHIVE}/{shard}#{name}" for name in names], "archive": [shard] * PART}
        data |= {"member": names, "anomaly_score": scores.max(axis=1)}
        for c, name in enumerate(CATEGORIES):
            data |= {f"score_{name}": scores[:, c], f"spread_{name}": scores[:, c]}
            data[f"logit_{name}"] = scores[:, c]
        data["findings"] = [[CATEGORIES[c] for c in np.flatnonzero(row > 0.9)] for row in scores]
        data |= {name: [[]] * PART for name in ("uncertain", "signs", "evidence")}
        arrays = [pa.array(data[field.name], field.type) for field in columns.schema]
        table = pa.Table.from_arrays(arrays, schema=columns.schema)
        commit_unit(output, unit.id, table, empty_failures(), metadata)
        units.append(unit)
    write_bytes(plan_uri(output), encode_plan(units, metadata))
    lines = [
        f"{k // PART:05d}.tar,{k % PART}.png,study-{k // GROUP}" for k in range(min(LISTED, images))
    ]
    Path(output, "groups.csv").write_text("\n".join(["archive,member,study_id", *lines]) + "\n")


def one(command: str, output: str) -> None:
    """One command in this process; prints its CPU seconds and peak memory as JSON."""
    if command == "aggregate":
        found = aggregate_scores(output, f"{output}/groups.csv", "study_id", Pooling())
        write_groups(found, f"{output}/groups")
        if found.images != LISTED:
            raise AssertionError(f"{found.images} images are in groups, not {LISTED}")
    elif command == "worklist":
        rank_images(output, Ranking(), 50)
    else:
        suggest(output, 50)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024}))


def main(
    images: Annotated[int, typer.Option(help="Scored images of the smaller run.")] = 100_000,
    times: Annotated[int, typer.Option(help="How much larger the other run is.")] = 10,
    command: Annotated[str, typer.Option(hidden=True)] = "",
    output: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Aggregate and rank a small and a large run, and choose what to label."""
    if command:
        one(command, output)
        return
    found: dict[str, list[dict[str, float]]] = {"aggregate": [], "worklist": [], "suggest": []}
    for count in (images, times * images):
        with tempfile.TemporaryDirectory() as folder:
            write_run(folder, count)
            for name, results in found.items():
                call = [sys.executable, __file__, "--command", name, "--output", folder]
                ended = subprocess.run(call, check=True, capture_output=True, text=True)
                results.append(json.loads(ended.stdout.splitlines()[-1]))
                print(
                    f"{name:10s} {count:>12,} images  {results[-1]['seconds']:7.1f} s of CPU",
                    end="  ",
                )
                print(f"{results[-1]['peak']:6,.0f} MiB", flush=True)
    for name, (small, large) in found.items():
        ratios = [large[key] / small[key] for key in ("seconds", "peak")]
        print(f"{name:10s} {times} times the images: {ratios[0]:.1f} times the CPU, ", end="")
        print(f"{ratios[1]:.2f} times the memory")


if __name__ == "__main__":
    typer.run(main)
