"""Time and memory of `sdmad status` at a run of many work units.

    python benchmarks/status.py

The run has as many tables of scores and of failures as units, on a local disk: links to a few real
files. One unit in a hundred has failures. Prints seconds of the call (median, range) and peak
memory of the process, and the requests that the same call makes of S3.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from sdmad.scoring import status, tables
from sdmad.storage import run_record

LINKS = 10_000  # of one file; file systems bound their number


def failures(count: int) -> pa.Table:
    rows = [
        {"uri": f"a.tar#{k}", "archive": "a.tar", "member": str(k), "stage": "decode"}
        | {"reason": f"damaged image: broken at {k}"}
        for k in range(count)
    ]
    return pa.Table.from_pylist(rows, tables.empty_failures().schema)


def write_run(folder: Path, units: int) -> None:
    record = {"job": status.JOB, "run": "0", "status": "running", "units_total": 2 * units}
    record |= {"updated": run_record.now(), "last_commit": run_record.now()}
    record |= {"all_runs": {"units": units, "images": 256 * units, "failures": units // 20}}
    run_record.write_record(str(folder), record)
    contents = {"scores": b"x", "empty": tables.encode(failures(0), {})}
    contents["failures"] = tables.encode(failures(5), {})
    for kind in ("scores", "failures"):
        (folder / kind).mkdir()
        for number in range(units):
            failed = kind == "failures" and number % 100 == 0
            content = "scores" if kind == "scores" else "failures" if failed else "empty"
            origin = folder / f"{content}-{number // LINKS}"
            if not origin.exists():
                origin.write_bytes(contents[content])
            os.link(origin, folder / kind / tables.part_name(f"{number:016x}"))


def main(
    units: Annotated[int, typer.Option(help="Finished work units.")] = 100_000,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 5,
) -> None:
    """Read the state of a run again and again."""
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), units)
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            found = status.read_status(name)
            seconds.append(time.perf_counter() - begin)
            if (found.units_done, found.failures.tables) != (units, -(-units // 100)):
                sys.exit(f"wrong state: {found}")
    seconds.sort()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pages = 2 * -(-units // 1000)
    print(
        f"{units:,} units: {seconds[len(seconds) // 2]:.1f} s ({seconds[0]:.1f} to "
        f"{seconds[-1]:.1f}), peak {peak:,.0f} MiB; on S3 {pages} LIST in two streams and "
        f"{found.failures.tables_read + 2} GET"
    )


if __name__ == "__main__":
    typer.run(main)
