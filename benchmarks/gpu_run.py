"""A scoring run compared with its detector alone, and where the time around the detector goes.

    python benchmarks/gpu_run.py                                          # on a GPU, four minutes
    python benchmarks/gpu_run.py --model ViT-B-32 --images 480 --side 256        # on CPUs

JPEGs in tars on local disk (a hundred different ones, repeated), random weights. Prints:

- images a second of the detector on pixels in memory, with one and with eight adapters, and with
  one and with two batches in work at once;
- for the whole job (jobs/score_archive.py, one detector) with one and with two batches at once:
  seconds to the first scores, images a second after these, the ratio of that to the detector alone,
  and busy seconds by part;
- the share of a core that the driver takes after the first scores (benchmarks/driver_cost.py
  measures how many images a second a driver can take).

Every measurement is in new processes. The detector alone gets the environment of a detector actor.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from gpu_forward import fit_files
from peers.inputs import random_checkpoint
from PIL import Image

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.detector import Detector
from sdmad.fits import fit_uri
from sdmad.phantoms.task import draw_example
from sdmad.runtime.cluster import MODEL_ENVIRONMENT

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runs" / "gpu"
SHARDS, DIFFERENT = 24, 100
BATCH = 64
SEEDS = (1, 8)
CALLS = (1, 2)
SECONDS_ALONE = 8.0


def write_archive(folder: Path, images: int, side: int) -> None:
    """Tars of JPEGs; phantoms enlarged, with noise, so that they are as large as photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = []
    for k in range(DIFFERENT):
        drawn = Image.fromarray(draw_example(k, "test").image)
        fine = np.asarray(drawn.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        noise = np.random.default_rng(k).normal(0, 4, fine.shape)
        sink = io.BytesIO()
        image = Image.fromarray(np.clip(fine + noise, 0, 255).astype(np.uint8))
        image.save(sink, "JPEG", quality=90)
        contents.append(sink.getvalue())
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as tar:
            for k in range(images // SHARDS):
                content = contents[k % DIFFERENT]
                info = tarfile.TarInfo(f"{shard:02d}-{k:05d}.jpg")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_detectors(folder: Path, model: str) -> None:
    """A detector for each number of seeds, fitted to noise: only its speed matters."""
    checkpoint = random_checkpoint(PLACE, model)
    backbone = load_backbone(BackboneConfig(model=model, pretrained=str(checkpoint)), device())
    for seeds in SEEDS:
        for seed, content in enumerate(fit_files(backbone, seeds)):
            path = Path(fit_uri(str(folder / f"{seeds}"), 1, seed))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def alone(uri: str) -> dict[str, float]:
    """Seconds until the detector has loaded, and images a second by batches at once."""
    if device() == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    begin = time.perf_counter()
    detector = Detector.load(uri)
    size = detector.spec.size
    pixels = np.random.default_rng(0).integers(0, 255, (BATCH, *size, 3), np.uint8)
    detector.score_pixels(pixels)
    found = {"load": time.perf_counter() - begin}
    for calls in CALLS:
        found[str(calls)] = rate(detector, pixels, calls)
    return found


def rate(detector: Detector, pixels: np.ndarray, calls: int) -> float:
    """Images a second with `calls` batches in work at once, as `sdmad.scoring.actor` has them."""
    ends: list[float] = []
    stop = time.perf_counter() + SECONDS_ALONE

    def work() -> None:
        stream = torch.cuda.Stream() if device() == "cuda" else None
        with torch.cuda.stream(stream):
            while time.perf_counter() < stop:
                detector.score_pixels(pixels)
                ends.append(time.perf_counter())

    with ThreadPoolExecutor(calls) as pool:
        for job in [pool.submit(work) for _ in range(calls)]:
            job.result()
    first = len(ends) // 4  # The first batches allocate memory.
    if len(ends) < 4:
        return len(pixels) * len(ends) / SECONDS_ALONE
    return len(pixels) * (len(ends) - 1 - first) / (max(ends) - ends[first])


def job(archive: Path, detector: Path, calls: int) -> dict[str, Any]:
    """Run the job; its run.json, and seconds from the command to the record of its start."""
    output = PLACE / "scores"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "jobs/score_archive.py", "--archive", str(archive)]
    command += ["--detector", str(detector), "--output", str(output), "--detectors", "1"]
    command += ["--detector-calls", str(calls), "--batch-size", str(BATCH)]
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "RAY_ADDRESS")}
    begin = time.perf_counter()
    with (PLACE / "score.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        while process.poll() is None and not (output / "run.json").exists():
            time.sleep(0.02)
        planned = time.perf_counter() - begin
        if process.wait():
            sys.exit(f"the job failed; see {PLACE / 'score.log'}")
    record: dict[str, Any] = json.loads((output / "run.json").read_text())
    return record | {"planned": planned}


def report(record: dict[str, Any], calls: int, limit: float) -> None:
    """Print what a run took, after its first scores and before."""
    images = record["images"] - BATCH
    seconds = record["seconds"] - record["seconds_to_first_scores"]
    pace = images / seconds
    driver = record["driver_cpu_seconds"] / seconds
    first = record["planned"] + record["seconds_to_first_scores"]
    busy = ", ".join(f"{name} {value:.1f}" for name, value in record["stage_seconds"].items())
    print(f"run, {calls} at once: {pace:.0f} images/s, {pace / limit:.3f} of the detector alone")
    print(
        f"    first scores after {first:.1f} s, {record['planned']:.1f} of them before Ray starts"
    )
    print(f"    busy seconds: {busy}; {record['readers']} readers, {seconds:.1f} s in all")
    print(f"    driver: {driver:.1%} of a core")
    in_model = record["images"] / record["stage_seconds"]["model"]
    print(f"    inside the detector's calls: {in_model:.0f} images/s", flush=True)


def main(
    model: Annotated[str, typer.Option(help="open_clip model.")] = "ViT-L-14-336",
    images: Annotated[int, typer.Option(help="Images, a multiple of 24.")] = 24_000,
    side: Annotated[int, typer.Option(help="Pixels of an image's side.")] = 512,
    at_once: Annotated[
        list[int] | None, typer.Option(help="Batches at once in the job; repeatable.")
    ] = None,
    alone_of: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Compare a scoring run with its detector alone; print rates, seconds and ratios."""
    if alone_of is not None:
        print(json.dumps(alone(alone_of)))
        return
    archive, detectors = PLACE / f"{images}-{side}", PLACE / f"{model}-detectors"
    if not archive.exists():
        write_archive(archive, images, side)
    if not detectors.exists():
        write_detectors(detectors, model)
    name = torch.cuda.get_device_name() if device() == "cuda" else "CPU"
    print(f"{model}, {images} JPEGs of {side} pixels, {name}, {os.cpu_count()} cores", flush=True)
    limit = 0.0
    for seeds in SEEDS:
        command = [sys.executable, __file__, "--alone-of", str(detectors / str(seeds))]
        found = subprocess.run(
            command, env=os.environ | MODEL_ENVIRONMENT, check=True, capture_output=True
        )
        rates = json.loads(found.stdout.splitlines()[-1])
        shown = ", ".join(f"{rates[str(calls)]:.0f} ({calls} at once)" for calls in CALLS)
        print(f"detector alone, {seeds} adapters: {shown} images/s; loads in {rates['load']:.1f} s")
        limit = limit or rates[str(CALLS[0])]
    for calls in at_once or CALLS:
        report(job(archive, detectors / "1", calls), calls, limit)


if __name__ == "__main__":
    typer.run(main)
