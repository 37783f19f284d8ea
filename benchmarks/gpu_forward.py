"""Speed of the forward pass of a detector on one device, and its share of the device's peak.

    python benchmarks/gpu_forward.py                                  # ViT-L/14 at 336, on a GPU
    python benchmarks/gpu_forward.py --model ViT-B-32 --batch 16 --batches 4    # on a CPU, short

Scores phantoms at the model's size, in host memory as in a scoring run, with the random weights of
benchmarks/peers, 1 and 8 adapters, and no Ray. Compares:

- single precision, as shipped;
- half precision, where the device has it: weights cast once, as shipped; PyTorch's autocast; on
  GPUs also bfloat16;
- on CPUs: blocks prepacked for oneDNN, or not, whichever is not the default;
- with `--compiled`: torch.compile of the blocks, on CPUs with and without freezing.

Each line has images a second and the largest difference of a score and of a cosine from the first
line. The share of the peak is the rate of multiplications and additions over that of the device: on
GPUs the maker's value for half precision, on CPUs the rate of one large matrix product in single
precision. A detector computes the last block for the class token only, and only this is counted: 7
% less than a whole tower for ViT-B/32, 4 % less for ViT-L/14-336.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch._dynamo
import torch._inductor.config
import torch.nn.functional as F
import typer
from peers.inputs import random_checkpoint
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.backbones.packed import can_pack
from sdmad.backbones.precision import cpu_has_bfloat16
from sdmad.backbones.towers import Activations
from sdmad.detector import Detector
from sdmad.fits import Fit, Provenance, deserialize, serialize
from sdmad.inputs.catalog import load_catalog
from sdmad.method.augment import SupportImages
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.phantoms.task import draw_example
from sdmad.scores import Scores

SEEDS = (1, 8)
# TFLOP/s in half precision without sparsity, from the makers' data sheets.
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10G": 70, "T4": 65}


def make_fits(backbone: Backbone, seeds: int, learner: LearnerConfig | None = None) -> list[Fit]:
    """Fits to random images; only their speed matters."""
    return [deserialize(content, "") for content in fit_files(backbone, seeds, learner)]


def fit_files(backbone: Backbone, seeds: int, learner: LearnerConfig | None = None) -> list[bytes]:
    """The files of such fits, of seeds 0, 1, ..."""
    catalog = load_catalog("phantoms")
    count = len(catalog.categories) + 1
    rng = np.random.default_rng(0)
    learner = learner or LearnerConfig(steps=2)
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
    about = Provenance.of(
        backbone,
        catalog=catalog,
        learner=learner,
        shots=1,
        seed=0,
        support_images=count,
        support_digest="",
    )
    provenances = [about.model_copy(update={"seed": seed}) for seed in range(seeds)]
    return [serialize(fitted, rule, k, found) for k, found in enumerate(provenances)]


def rates(detector: Detector, pixels: np.ndarray, batches: int) -> list[float]:
    """Images a second of each of `batches` passes, after three warm-up passes."""
    found = []
    for turn in range(3 + batches):
        begin = time.perf_counter()
        detector.score_pixels(pixels)  # Copies scores to the host, so it waits for the GPU.
        if turn >= 3:
            found.append(len(pixels) / (time.perf_counter() - begin))
    return found


def flops_an_image(detector: Detector, pixels: np.ndarray) -> float:
    """FLOP of an image; not for prepacked blocks, which the counter does not know."""
    torch.backends.mha.set_fastpath_enabled(False)  # The counter does not see fused attention.
    with FlopCounterMode(display=False) as counter:
        detector.score_pixels(pixels)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / len(pixels)


def peak_of(device: str, given: float | None) -> float | None:
    """TFLOP/s of the device; None for a GPU that is not in `PEAK_TFLOPS`."""
    if given is not None:
        return given
    if device == "cpu":
        return product_rate()
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)


def product_rate() -> float:
    """TFLOP/s of a large matrix product in single precision on all cores, the best of ten."""
    x, weight = torch.randn(4096, 1024), torch.randn(4096, 1024)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        F.linear(x, weight)
        times.append(time.perf_counter() - begin)
    return 2 * len(x) * weight.numel() / min(times) / 1e12


def main(
    model: Annotated[str, typer.Option(help="open_clip model.")] = "ViT-L-14-336",
    batch: Annotated[int, typer.Option(help="Images in a pass.")] = 64,
    batches: Annotated[int, typer.Option(help="Passes that count.")] = 20,
    compiled: Annotated[bool, typer.Option(help="Also measure torch.compile.")] = False,
    peak_tflops: Annotated[
        float | None,
        typer.Option(help="Peak of the device, on GPUs in half precision."),
    ] = None,
) -> None:
    """Measure the forward pass of a detector in several precisions; print a table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peak = peak_of(device, peak_tflops)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{model}, batches of {batch}, {name}" + (f", {peak:.3g} TFLOP/s" if peak else ""))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), model)
        backbone = load_backbone(BackboneConfig(model=model, pretrained=str(checkpoint)), device)
        for seeds in SEEDS:
            fits = make_fits(backbone, seeds)
            images = [Image.fromarray(draw_example(k, "test").image) for k in range(batch)]
            pixels = np.stack([backbone.spec.fit(image) for image in images])
            flops = flops_an_image(single(backbone, fits, packs=False), pixels[:2])
            print(f"{seeds} adapters, {flops / 1e9:.1f} GFLOP an image")
            first_scores: Scores | None = None
            for what, detector in detectors(backbone, fits, compiled and seeds == 1):
                begin = time.perf_counter()
                scores = detector.score_pixels(pixels)
                first = time.perf_counter() - begin
                found = rates(detector, pixels, batches)
                _line(what, found, flops, peak if ("half" in what) == (device != "cpu") else None)
                if "compiled" in what:
                    print(f"    compiling took {first - batch / statistics.median(found):.0f} s")
                if first_scores is None:
                    first_scores, varied = scores, scores.similarities.std(0)
                    print(f"    cosines of different images differ by {np.median(varied):.0e}")
                    continue
                score = np.abs(first_scores.seeds - scores.seeds).max()
                cosine = np.abs(first_scores.similarities - scores.similarities).max()
                print(f"    differs by up to {score:.0e} (scores), {cosine:.0e} (cosines)")


def single(backbone: Backbone, fits: list[Fit], packs: bool) -> Detector:
    """A detector in single precision, with or without prepacked blocks."""
    detector = Detector(backbone, fits, "single")
    detector.encoder.packs = packs
    return detector


def detectors(
    backbone: Backbone, fits: list[Fit], compiled: bool
) -> Iterator[tuple[str, Detector]]:
    """Names and detectors to compare, shipped single precision first."""
    shipped = Detector(backbone, fits, "single")
    yield "single precision", shipped
    on_cpu = backbone.device.type == "cpu"
    if shipped.encoder.packs:
        yield "single, not prepacked", single(backbone, fits, packs=False)
    elif on_cpu and can_pack():
        yield "single, prepacked", single(backbone, fits, packs=True)
    if not on_cpu or cpu_has_bfloat16():
        yield "half precision", Detector(backbone, fits, "half")
        yield "half, autocast", in_autocast(Detector(backbone, fits, "half"))
    if not on_cpu:
        other = Detector(backbone, fits, "half")
        other.encoder.half = torch.bfloat16
        yield "half, bfloat16", other
    # With frozen weights each block is compiled by itself.
    torch._dynamo.config.recompile_limit = 2 * len(backbone.image.blocks)
    for frozen in ((False, True) if on_cpu else (False,)) if compiled else ():
        torch._dynamo.reset()
        torch._inductor.config.freezing = frozen
        detector = single(backbone, fits, packs=False) if on_cpu else Detector(backbone, fits)
        blocks = detector.encoder.fast.image.blocks
        for block in blocks:
            block.compile()
        yield f"{'single' if on_cpu else 'half'}, compiled{', frozen' if frozen else ''}", detector
        for block in blocks:
            block._compiled_call_impl = None  # There is no public way to undo it.


def in_autocast(detector: Detector) -> Detector:
    """A detector in half precision by PyTorch's autocast.

    It casts weights at each use and keeps the residual sums in single precision.
    """
    plain, half = detector.backbone, detector.encoder.half

    class Cast:
        def image_activations(
            self, images: torch.Tensor, blocks: int, lean: bool = False
        ) -> tuple[Activations, torch.Tensor]:
            with torch.autocast(images.device.type, half):
                return plain.image_activations(images, blocks, lean)

    detector.encoder.fast = Cast()  # type: ignore[assignment]
    return detector


def _line(name: str, found: list[float], flops: float, peak: float | None) -> None:
    middle = statistics.median(found)
    used = "" if peak is None else f", {middle * flops / peak / 1e12:.0%} of the peak"
    print(
        f"  {name:24s} {middle:8.1f} images a second ({min(found):.1f} to {max(found):.1f}), "
        f"{middle * flops / 1e12:.2f} TFLOP/s{used}",
        flush=True,
    )


if __name__ == "__main__":
    typer.run(main)
