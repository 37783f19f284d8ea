"""Memory of a reader on a shard of 40 MB compared with one of 5 GB.

    python benchmarks/large_shards.py

Each measurement is a new process that reads and decodes a tar of 20-megabyte images (TIFF, 16 bit)
from local disk as a reader does, and prints its peak resident memory. Also measures a JPEG of
30,000 x 30,000 pixels (decoded at a reduced size) and a PNG of that size (refused). Needs 5.3 GB of
disk in the folder for temporary files.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from sdmad.archive.listing import list_archive
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.units import cut_units
from sdmad.scoring.reading import read_and_decode

SPEC = ImageSpec((224, 224), (0.5,) * 3, (0.2,) * 3, "bicubic", "shortest")


def write(path: Path, images: int) -> None:
    """Write a tar of `images` members, one at a time."""
    noise = np.random.default_rng(0).integers(0, 65535, (2500, 4000), np.uint16)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "TIFF")
    content = sink.getvalue()
    with tarfile.open(path, "w") as tar:
        for k in range(images):
            info = tarfile.TarInfo(f"{k}.tif")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read(path: str) -> None:
    """Read and decode one archive in this process; print rows, reasons and peak memory as JSON."""
    rows, reasons = 0, set()
    begin = time.monotonic()
    for unit in cut_units(path, list_archive(path)):
        batch = {"payload": np.array([unit.to_json()])}
        for columns in read_and_decode(batch, SPEC, 64, 120.0):
            images = columns["index"] >= 0
            rows += int(images.sum())
            reasons |= set(columns["reason"][images]) - {""}
    # getrusage would include the peak of the parent process.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    seconds = time.monotonic() - begin
    print(json.dumps({"rows": rows, "reasons": sorted(reasons), "MiB": peak, "seconds": seconds}))


def measure(path: Path) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--read", str(path)], check=True, capture_output=True
    )
    return json.loads(done.stdout)


def main(
    read_only: Annotated[str, typer.Option("--read", hidden=True)] = "",
    images: Annotated[int, typer.Option(help="Images of the large shard, 20 MB each.")] = 250,
) -> None:
    """Measure the memory of a reader on small and large shards and on huge images."""
    if read_only:
        read(read_only)
        return
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.tar", Path(folder) / "large.tar"
        write(small, max(1, images // 100))
        write(large, images)
        results = {path: measure(path) for path in (small, large)}
        for path, found in results.items():
            print(
                f"{path.stat().st_size / 1e6:.0f} MB tar: {found['rows']} images, peak "
                f"{found['MiB']:.0f} MiB, {found['seconds']:.0f} s"
            )
        print(f"ratio of peaks: {results[large]['MiB'] / results[small]['MiB']:.2f}")
        large.unlink()
        for format in ("JPEG", "PNG"):
            path = Path(folder) / f"huge.{format.lower()}"
            Image.new("L", (30_000, 30_000), 77).save(path, format)
            found = measure(path)
            what = found["reasons"][0] if found["reasons"] else "scored"
            print(f"{format} of 30,000 x 30,000: {what}, peak {found['MiB']:.0f} MiB")


if __name__ == "__main__":
    typer.run(main)
