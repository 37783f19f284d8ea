"""Time and memory of a summary of many score rows, without images.

    python benchmarks/summary.py --rows 1000000

Writes the tables of a made-up scoring run into a temporary folder (six categories, 1000 rows a
unit, one site in ten different), and reads them as `sdmad summary` does: seconds, and the growth of
the process's memory from a tenth of the units to all.
"""

import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from scipy.special import expit

from sdmad.archive.units import WorkUnit
from sdmad.evaluation.overview import overview_of
from sdmad.scoring import tables
from sdmad.scoring.plan import encode_plan
from sdmad.scoring.tables import ScoreColumns
from sdmad.storage import StoredObject, parquet

CATEGORIES = [f"category_{k}" for k in range(6)]
COLUMNS = ScoreColumns(CATEGORIES, num_seeds=4, per_seed=False)
ROWS = 1000
TABLES = 20  # Different tables; units repeat them.


def table(seed: int) -> pa.Table:
    """Rows of a unit; those of seed 0 score higher."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2.5 + (seed == 0), 2, (ROWS, len(CATEGORIES)))
    p = expit(logits).astype(np.float32)
    names = [[CATEGORIES[c] for c in np.flatnonzero(row > 0.5)] for row in p]
    data = {
        "uri": [f"s3://made-up/{k}.png" for k in range(ROWS)],
        "archive": ["shard.tar"] * ROWS,
        "member": [f"{k:06d}.png" for k in range(ROWS)],
        "anomaly_score": p.max(axis=1),
        "findings": names,
        "uncertain": [row[:1] if k % 5 == 0 else [] for k, row in enumerate(names)],
        "signs": [
            [{"category": c, "sign": "made_up", "similarity": 0.3} for c in row] for row in names
        ],
        "evidence": [
            [{"category": c, "sign_logit": 1.0, "probe_logit": 1.0} for c in row] for row in names
        ],
    }
    for c, name in enumerate(CATEGORIES):
        data |= {f"score_{name}": p[:, c], f"logit_{name}": logits[:, c].astype(np.float32)}
        data[f"spread_{name}"] = np.full(ROWS, 0.1, np.float32)
    return pa.table({name: data[name] for name in COLUMNS.schema.names}, schema=COLUMNS.schema)


def write(folder: Path, units: int) -> None:
    metadata = {"archive": "s3://made-up", "detector": "none", "detector_uri": "none"}
    metadata |= {"backbone": "none", "catalog": "none", "categories": ";".join(CATEGORIES)}
    made = [table(seed) for seed in range(TABLES)]
    failures = tables.encode(tables.empty_failures(), metadata)
    for kind in ("scores", "failures"):
        (folder / kind).mkdir()
    planned = []
    for k in range(units):
        site = k % 10
        name = f"site-{site}/shard-{k:06d}.tar"
        unit = WorkUnit.of("tar", "s3://made-up", [StoredObject(f"s3://made-up/{name}", 1, f"{k}")])
        planned.append(unit)
        rows = made[0 if site == 0 else 1 + k % (TABLES - 1)]
        index = rows.schema.get_field_index("archive")
        rows = rows.set_column(index, rows.schema.field(index), pa.array([name] * ROWS))
        (folder / "scores" / tables.part_name(unit.id)).write_bytes(parquet.encode(rows))
        (folder / "failures" / tables.part_name(unit.id)).write_bytes(failures)
    (folder / "plan.parquet").write_bytes(encode_plan(planned, metadata))


def peak() -> float:
    """MiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    rows: Annotated[int, typer.Option(help="Rows of the large run.", min=20 * ROWS)] = 1_000_000,
) -> None:
    """Print seconds and memory for a tenth of the rows, and for all."""
    folder = Path(tempfile.mkdtemp())
    try:
        for count in (rows // 10, rows):
            run = folder / f"{count}"
            run.mkdir()
            write(run, count // ROWS)
            before, begin = peak(), time.monotonic()
            cpu = time.process_time()
            overview = overview_of(str(run))
            groups = overview.groups.compared()
            seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
            different = [group.name for group in groups if group.different]
            print(
                f"{overview.images:,} rows: {seconds:.1f} s, {cpu:.1f} s of CPU, "
                f"{1e6 * cpu / overview.images:.1f} us a row; peak {before:.0f} MiB before, "
                f"{peak():.0f} MiB after; different: {', '.join(different)}",
                flush=True,
            )
            assert overview.images == count // ROWS * ROWS
            assert different == ["site-0/"]
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
