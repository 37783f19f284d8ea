"""The forward pass of a detector on one device: images a second, and model FLOP utilisation.

    python benchmarks/gpu_forward.py                                  # ViT-L/14 at 336, on a GPU
    python benchmarks/gpu_forward.py --model ViT-B-32 --batch 16 --batches 4   # tries it on a CPU

Random weights, 1 and 8 adapters, pixels from host memory as in a scoring run, no Ray. In single
and in half precision where the device has it, with the largest difference of a score between the
two, and with torch.compile of the image tower when asked for. "Utilisation" is multiplications and
additions of the whole pass over the peak of the device.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import open_clip
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from sdmad.backbone import BackboneConfig, load_backbone
from sdmad.catalog import load_catalog
from sdmad.detector import Detector
from sdmad.fits import Provenance, code_version, pack, unpack
from sdmad.learner import LearnerConfig, SupportImages, fit_batch
from sdmad.precision import cpu_has_bfloat16, half_type

SEEDS = (1, 8)
# Dense, without sparsity, in half precision; from the makers' data sheets.
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10G": 70, "T4": 65}


def make_detector(checkpoint: Path, model: str, seeds: int, device: str) -> Detector:
    """A detector of random fits: what they decide does not matter here."""
    config = BackboneConfig(model=model, pretrained=str(checkpoint))
    backbone, catalog = load_backbone(config, device), load_catalog("phantoms")
    count = len(catalog.categories) + 1
    rng = np.random.default_rng(0)
    learner = LearnerConfig(steps=2)
    supports = [
        SupportImages(
            1,
            seed,
            [f"{seed}-{k}" for k in range(count)],
            rng.integers(0, 255, (count, *backbone.spec.size, 3), np.uint8),
            np.eye(count, count - 1, dtype=bool),
        )
        for seed in range(seeds)
    ]
    fitted, rule = fit_batch(backbone, catalog, supports, learner)
    fits = []
    for seed in range(seeds):
        provenance = Provenance(
            code_version=code_version(),
            backbone=config,
            backbone_fingerprint=backbone.fingerprint,
            catalog=catalog,
            learner=learner,
            shots=1,
            seed=seed,
            support_images=count,
            support_digest="",
        )
        fits.append(unpack(pack(fitted, rule, seed, provenance), ""))
    return Detector(backbone, fits)


def rates(detector: Detector, pixels: np.ndarray, batches: int) -> list[float]:
    """Images a second of each of `batches` passes, behind three that warm up."""
    found = []
    for turn in range(3 + batches):
        begin = time.perf_counter()
        detector.score_pixels(pixels)  # Scores come back to host memory: nothing is left running.
        if turn >= 3:
            found.append(len(pixels) / (time.perf_counter() - begin))
    return found


def flops_an_image(detector: Detector, pixels: np.ndarray) -> float:
    with FlopCounterMode(display=False) as counter:
        detector.score_pixels(pixels)
    return counter.get_total_flops() / len(pixels)


def peak_of(device: str, given: float | None) -> float | None:
    if given is not None or device == "cpu":
        return given
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)


def main(
    model: Annotated[str, typer.Option(help="A model of open_clip.")] = "ViT-L-14-336",
    batch: Annotated[int, typer.Option(help="Images of a pass.")] = 64,
    batches: Annotated[int, typer.Option(help="Passes.")] = 20,
    compiled: Annotated[bool, typer.Option(help="Also torch.compile the image tower.")] = False,
    peak_tflops: Annotated[float | None, typer.Option(help="Of the device, dense.")] = None,
) -> None:
    """Print a table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peak = peak_of(device, peak_tflops)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{model}, batches of {batch}, {name}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "random.pt"
        torch.manual_seed(0)
        torch.save(open_clip.create_model(model).state_dict(), checkpoint)
        for seeds in SEEDS:
            detector = make_detector(checkpoint, model, seeds, device)
            pixels = np.random.default_rng(1).integers(
                0, 255, (batch, *detector.spec.size, 3), np.uint8
            )
            flops = flops_an_image(detector, pixels)
            print(f"{seeds} adapters, {flops / 1e9:.1f} GFLOP an image")
            _measure(detector, pixels, batches, flops, peak, compiled)


def _measure(
    detector: Detector,
    pixels: np.ndarray,
    batches: int,
    flops: float,
    peak: float | None,
    compiled: bool,
) -> None:
    detector.half = None
    single = detector.score_pixels(pixels)
    _line("single precision", rates(detector, pixels, batches), flops, None)
    device = detector.backbone.device
    if device.type == "cuda" or cpu_has_bfloat16():
        detector.half = half_type(device, "half")
        half = detector.score_pixels(pixels)
        _line("half precision", rates(detector, pixels, batches), flops, peak)
        for what in ("seeds", "similarities"):
            away = np.abs(getattr(single, what) - getattr(half, what)).max()
            print(f"  largest difference of {what}: {away:.1e}")
    if compiled:
        begin = time.perf_counter()
        for index, block in enumerate(detector.backbone.image.blocks):
            detector.backbone.image.blocks[index] = torch.compile(block)
        detector.score_pixels(pixels)
        print(f"  torch.compile took {time.perf_counter() - begin:.0f} s")
        _line("compiled", rates(detector, pixels, batches), flops, peak)


def _line(name: str, found: list[float], flops: float, peak: float | None) -> None:
    middle = statistics.median(found)
    used = "" if peak is None else f", {middle * flops / peak / 1e12:.0%} of {peak:g} TFLOP/s"
    print(
        f"  {name:24s} {middle:8.1f} images a second ({min(found):.1f} to {max(found):.1f}), "
        f"{middle * flops / 1e12:.2f} TFLOP/s{used}",
        flush=True,
    )


if __name__ == "__main__":
    typer.run(main)
