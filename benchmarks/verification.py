"""Time and memory of `sdmad verify` on 1,000,000 and 10,000,000 rows.

    python benchmarks/verification.py

Writes tars of small PNGs, the plan of a scoring run and its tables to a temporary folder, then
verifies them in a new process, and prints seconds, rows a second and peak memory. The tables have a
row for each image; one in a hundred is a failure.

All tars are hard links to one file of 10,000 images, so that they take 10 MB of disk, and come from
the kernel's cache. So this measures the work of verification: walking the headers of the tars,
counting the frames of every image, reading the tables (0.6 GB for 10,000,000 rows) and comparing.
It does not measure disks, requests to S3, or images of a usual size.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from PIL import Image

from sdmad.scoring import tables
from sdmad.scoring.plan import make_plan
from sdmad.scoring.tables import ScoreColumns
from sdmad.scoring.verify import verify_scores

COLUMNS = ScoreColumns([f"category_{k}" for k in range(6)], num_seeds=1, per_seed=False)
FAILURE_EVERY = 100
REASON = "image file is truncated (3 bytes not processed)"


def write_archive(folder: Path, units: int, names: list[str]) -> None:
    """Tars of the same images, as hard links to one file."""
    folder.mkdir()
    sink = io.BytesIO()
    Image.new("L", (8, 8), 77).save(sink, "PNG")
    first = folder / "00000.tar"
    with tarfile.open(first, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = sink.tell()
            sink.seek(0)
            tar.addfile(info, sink)
    for k in range(1, units):
        os.link(first, folder / f"{k:05d}.tar")


def write_tables(archive: str, output: str, names: list[str]) -> None:
    """The plan, and the tables of every unit."""
    metadata = {"archive": archive, "detector": "0" * 16, "per_seed": "false"}
    plan = make_plan(archive, output, metadata)
    failed = np.arange(len(names)) % FAILURE_EVERY == 0
    good = [name for name, bad in zip(names, failed, strict=True) if not bad]
    bad = [name for name, bad in zip(names, failed, strict=True) if bad]
    values = score_values(len(good))
    for unit in plan.units:
        scores = identity(unit.archive, archive, good) | values
        failures = identity(unit.archive, archive, bad)
        failures |= {"stage": ["decode"] * len(bad), "reason": [REASON] * len(bad)}
        tables.commit_unit(
            output,
            unit.id,
            pa.table(scores, COLUMNS.schema),
            pa.table(failures, tables.empty_failures().schema),
            metadata,
        )


def identity(shard: str, archive: str, names: list[str]) -> dict[str, list]:
    uris = [f"{archive}/{shard}#{name}" for name in names]
    return {"uri": uris, "archive": [shard] * len(names), "member": names}


def score_values(count: int) -> dict[str, object]:
    """Columns of random scores, with two signs an image."""
    chance = np.random.default_rng(0)
    found: dict[str, object] = {}
    for field in COLUMNS.schema:
        if pa.types.is_float32(field.type):
            found[field.name] = pa.array(chance.random(count, np.float32))
    first = COLUMNS.categories[0]
    signs = [{"category": first, "sign": f"sign {k}", "similarity": 0.5} for k in range(2)]
    carried = {"category": first, "sign_logit": 1.0, "probe_logit": 1.0}
    return found | {
        "evidence": [[carried]] * count,
        "findings": [[first]] * count,
        "uncertain": [[]] * count,
        "signs": [signs] * count,
    }


def peak() -> float:
    """MiB of this process at most; getrusage would include the peak of the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def verify(archive: str, output: str, open_files: bool) -> None:
    """Verify in this process; print seconds, memory and counts as JSON."""
    before, begin = peak(), time.perf_counter()
    verdict = verify_scores(archive, output, open_files)
    seconds = time.perf_counter() - begin
    found = {"images": verdict.images, "scored": verdict.scored, "failed": verdict.failed}
    print(
        json.dumps(
            found | {"passed": verdict.passed, "seconds": seconds, "before": before, "peak": peak()}
        )
    )


def measure(rows: int, units: int, names_only: bool) -> float:
    """Write and verify; prints a line and returns the peak memory in MiB."""
    each = rows // units
    names = [f"study-{k // 50:04d}/{k:06d}.png" for k in range(each)]
    with tempfile.TemporaryDirectory() as folder:
        archive, output = f"{folder}/archive", f"{folder}/scores"
        write_archive(Path(archive), units, names)
        write_tables(archive, output, names)
        command = [sys.executable, __file__, "--verify", archive, "--scores", output]
        command += ["--names-only"] if names_only else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    failures = units * len(range(0, each, FAILURE_EVERY))
    assert found["passed"]
    assert (found["scored"], found["failed"]) == (units * each - failures, failures)
    assert found["images"] == units * each
    print(
        f"{units * each:,} rows in {units:,} units: {found['seconds']:.1f} s, "
        f"{units * each / found['seconds']:,.0f} rows/s, peak {found['peak']:.0f} MiB "
        f"({found['before']:.0f} MiB before it began)",
        flush=True,
    )
    return found["peak"]


def main(
    rows: Annotated[list[int], typer.Option(help="Rows; may be given several times.")] = [  # noqa: B006
        1_000_000,
        10_000_000,
    ],
    units: Annotated[
        int, typer.Option(help="Work units for the most rows; in proportion for fewer rows.")
    ] = 1000,
    names_only: Annotated[bool, typer.Option("--names-only", help="Do not open images.")] = False,
    archive: Annotated[str, typer.Option("--verify", hidden=True)] = "",
    scores: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Verify tables of several sizes; print seconds, rows a second and peak memory."""
    if archive:
        verify(archive, scores, not names_only)
        return
    each = max(rows) // units
    peaks = [measure(count, max(1, count // each), names_only) for count in rows]
    print(f"peak memory, most rows against fewest: {peaks[-1] / peaks[0]:.2f} x")


if __name__ == "__main__":
    typer.run(main)
