"""Speed of sdmad compared with other tools: same shards, model, cores and outputs.

    python benchmarks/peers/run.py

Compares `jobs/score_archive.py` with a plain `DataLoader` script, with clip-retrieval's `clip
inference` and with Daft. Each of these peers has an environment of its own under `runs/peers`,
which is made when it is missing. All read the same tar shards from an S3 server on this machine,
run the same open_clip model on all cores and write tables. sdmad runs a zero-shot detector and also
writes scores, findings and signs. Similarities with the signs must agree to 1e-3 in every run.

Each peer first tries the settings in `choices` and keeps the fastest (`--no-choose` takes the first
of them). sdmad runs at its defaults. Then the systems take turns, `--repeats` times. 2,000 images
take an hour and a half on two cores and 18 GB of disk. With a few hundred images the results depend
on start-up times, which vary by seconds.

"The model alone" is the same open_clip model in PyTorch on pixels in memory, measured before and
after each turn: the limit of a peer that calls it.

Rates exclude start-up, for all systems in the same way: the process is timed from outside on the
archive and on its first fifth, and the difference counts. A system may read ahead while its model
loads, as sdmad does, and so hide work in the start-up. The time that counts is therefore at least
the CPU seconds of that work, spread over all cores.
"""

import json
import os
import signal
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import open_clip
import torch
import typer
from inputs import FORMATS, SHORT_SHARDS, Inputs, make_inputs
from make_environments import PEERS, make
from outputs import SDMAD, Rows, difference, load_embeddings, load_similarities, spread
from processes import Cost
from ranges import ranged
from systems import ROOT, Settings, run_system

from sdmad import storage
from sdmad.backbones.config import PHANTOM
from sdmad.demo.local_s3 import local_s3

PLACE = ROOT / "runs" / "peers"
ARCHIVE, SHORT = "s3://peers/archive", "s3://peers/short"
TOLERANCE = 1e-3
CORES = os.cpu_count() or 1
QUIET = 0.05
BOUND_PASSES = 6


@dataclass(frozen=True)
class Measured:
    """One turn of a system: on the archive (`whole`) and on its first fifth (`short`)."""

    whole: Cost
    short: Cost
    images: int
    short_images: int

    @property
    def cpu_seconds_each(self) -> float:
        rest = self.whole.cpu_seconds - self.short.cpu_seconds
        return rest / (self.images - self.short_images)

    @property
    def seconds_each(self) -> float:
        """Wall clock seconds of an image, without start-up."""
        wall = (self.whole.seconds - self.short.seconds) / (self.images - self.short_images)
        return max(wall, self.cpu_seconds_each / CORES)

    @property
    def rate(self) -> float:
        return 1 / self.seconds_each

    @property
    def startup(self) -> float:
        """Seconds that do not grow with the archive: imports, loading the model, shutdown."""
        return self.whole.seconds - self.images * self.seconds_each


def choices(peer: str, threads: int) -> list[Settings]:
    """Settings that a peer tries; the first is usually the fastest."""
    few = max(1, threads // 4)
    if peer == "daft":
        # Its UDFs are threads, so there are no reading processes.
        return [Settings(batch, threads, 0) for batch in (32, 64)]
    found = [Settings(32, threads, max(2, threads)), Settings(64, threads, few)]
    if peer == "clip_retrieval":
        found.append(Settings(256, threads, 4))  # Its defaults.
    return found


class Comparison:
    """Runs systems on the inputs, sdmad first, and compares every output with its first."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.prompts = np.load(inputs.prompts)
        self.similarities: dict[str, Rows] = {}
        self.embeddings: dict[str, Rows] = {}
        self.worst: dict[str, dict[str, float]] = {}

    def run(self, system: str, settings: Settings | None, archive: str) -> Cost:
        """One run; ends the program when it fails or its outputs differ too much."""
        output = PLACE / "outputs" / f"{system}-{storage.name(archive)}"
        try:
            cost = run_system(system, settings, self.inputs, archive, output)
        except RuntimeError as error:
            sys.exit(str(error))
        self._check(system, archive, output)
        return cost

    def _check(self, system: str, archive: str, output: Path) -> None:
        found = load_similarities(system, output, self.prompts, self.inputs.signs)
        expected = self.inputs.images if archive == ARCHIVE else self.inputs.short_images
        if len(found) != expected:
            sys.exit(f"{system} scored {len(found)} images of {expected}")
        away = {"similarity": difference(found, self.similarities.setdefault(archive, found))}
        if system != SDMAD:
            vectors = load_embeddings(system, output)
            reference = self.embeddings.setdefault(archive, vectors)
            away["embedding"] = difference(vectors, reference)
        worst = self.worst.setdefault(system, {})
        for what, value in away.items():
            worst[what] = max(value, worst.get(what, 0.0))
            if not value <= TOLERANCE:
                sys.exit(f"{system}: a {what} differs by {value:.1e}, more than {TOLERANCE:g}")

    def bound(self) -> float:
        """Images a second of the model alone in PyTorch: pixels in memory, all cores."""
        torch.set_num_threads(CORES)
        # Random weights take the same time as the checkpoint's.
        model = open_clip.create_model(self.inputs.model).eval()
        size = open_clip.get_model_preprocess_cfg(model)["size"]
        pixels = torch.rand(64, 3, *((size, size) if isinstance(size, int) else size))
        times = []
        with torch.inference_mode():
            for _ in range(BOUND_PASSES):
                begin = time.perf_counter()
                model.encode_image(pixels)
                times.append(time.perf_counter() - begin)
        return len(pixels) / statistics.median(times[1:])

    def choose(self, peer: str, threads: int) -> Settings:
        """The settings with which a peer is fastest on the whole archive."""
        tried = {}
        for settings in choices(peer, threads):
            tried[settings] = self.run(peer, settings, ARCHIVE).seconds
            print(f"  {peer}, {settings}: {tried[settings]:.1f} s", flush=True)
        return min(tried, key=lambda settings: tried[settings])

    def measure(self, system: str, settings: Settings | None) -> Measured:
        """One turn of a system."""
        short = self.run(system, settings, SHORT)
        whole = self.run(system, settings, ARCHIVE)
        return Measured(whole, short, self.inputs.images, self.inputs.short_images)


def show(turns: dict[str, list[Measured]], bounds: list[float], comparison: Comparison) -> None:
    """Print the table: medians with their range; each ratio is within one turn."""
    head = ("system", "images a second", "sdmad is", "start-up, s", "CPU ms an image", "differs")
    rows = [head]
    for system, measured in turns.items():
        pairs = zip(turns[SDMAD], measured, strict=True)
        ratios = [own.rate / peer.rate for own, peer in pairs]
        rows.append(
            (
                system,
                ranged([m.rate for m in measured], 1),
                "" if system == SDMAD else f"{ranged(ratios, 2)} x",
                ranged([m.startup for m in measured], 1),
                ranged([1000 * m.cpu_seconds_each for m in measured], 1),
                f"{max(comparison.worst[system].values()):.0e}",
            )
        )
    ahead = [m.rate / bound for m, bound in zip(turns[SDMAD], bounds, strict=True)]
    rows.append(("the model alone", ranged(bounds, 1), f"{ranged(ahead, 2)} x", "", "", ""))
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    apart = spread(comparison.similarities[ARCHIVE])
    print(
        "'differs' is the largest difference of a similarity from sdmad's or of an embedding from "
        f"the first peer's; similarities of different images differ by {apart:.0e}"
    )
    costs = [cost for measured in turns.values() for m in measured for cost in (m.short, m.whole)]
    others = max(cost.others_seconds / cost.seconds / CORES for cost in costs)
    print(f"other processes, including the S3 server, took up to {others:.0%} of the cores")
    if others > QUIET:
        print("that is too much: the results are not valid; run it again on an idle machine")


def record(turns: dict[str, list[Measured]], about: dict[str, object]) -> None:
    """Write the measurements to `results.json`."""
    found = {
        name: [asdict(m) | {"images_a_second": m.rate, "startup_seconds": m.startup} for m in some]
        for name, some in turns.items()
    }
    content = json.dumps(about | {"cores": CORES, "turns": found}, indent=2)
    (PLACE / "results.json").write_text(content + "\n")


def upload(inputs: Inputs) -> None:
    for number, path in enumerate(inputs.shards):
        content = path.read_bytes()
        for archive in (ARCHIVE, SHORT) if number < SHORT_SHARDS else (ARCHIVE,):
            storage.write_bytes(storage.join(archive, path.name), content)


def main(
    images: Annotated[int, typer.Option(help="Images of the archive, a multiple of 20.")] = 2000,
    repeats: Annotated[int, typer.Option(help="Turns of each system.", min=1)] = 3,
    model: Annotated[str, typer.Option(help="open_clip vision transformer.")] = "ViT-B-32",
    side: Annotated[int, typer.Option(help="Pixels of an image's side.", min=64)] = 512,
    kind: Annotated[str, typer.Option("--format", help="Of the images: jpg or png.")] = "jpg",
    choose: Annotated[bool, typer.Option(help="Let each peer try settings first.")] = True,
    peers: Annotated[str, typer.Option(help="Peers, in order.")] = ",".join(PEERS),
    peer_threads: Annotated[
        int | None,
        typer.Option(help="Threads of the peers, to test this script; no fair comparison."),
    ] = None,
) -> None:
    """Compare the speed of sdmad with that of other tools on the same shards."""
    # As with Ctrl-C, no process is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names, threads = peers.split(","), peer_threads or CORES
    if kind not in FORMATS or set(names) - set(PEERS) or images < 20 or images % 20:
        raise typer.BadParameter("images, format or peers are not as --help says")
    if model == PHANTOM:
        raise typer.BadParameter("the peers have no embedded backbone; give an open_clip model")
    for peer in names:
        make(peer)
    inputs = make_inputs(PLACE / "inputs", model, images, side, kind)
    comparison = Comparison(inputs)
    turns: dict[str, list[Measured]] = {name: [] for name in (SDMAD, *names)}
    bounds: list[float] = []
    settings: dict[str, Settings | None] = {SDMAD: None}
    with local_s3("peers"):
        upload(inputs)
        # Not counted: reads from disk, and gives the outputs to compare with.
        comparison.measure(SDMAD, None)
        for peer in names:
            settings[peer] = choices(peer, threads)[0]
            comparison.run(peer, settings[peer], SHORT)
            if choose:
                settings[peer] = comparison.choose(peer, threads)
        for turn in range(1, repeats + 1):
            before = comparison.bound()
            for system, measured in turns.items():
                measured.append(comparison.measure(system, settings[system]))
                print(f"  turn {turn}, {system}: {measured[-1].rate:.1f} a second", flush=True)
            bounds.append(statistics.mean((before, comparison.bound())))
            print(f"  turn {turn}, the model alone: {bounds[-1]:.1f} a second", flush=True)
    size = sum(path.stat().st_size for path in inputs.shards) / images / 1000
    print(
        f"\n{images} images ({kind}, {side} x {side}, {size:.0f} kB each) in {len(inputs.shards)} "
        f"tar shards, {model}, {CORES} cores; medians of {repeats}, range"
    )
    chosen = {peer: str(settings[peer]) for peer in names}
    for peer, text in chosen.items():
        print(f"{peer}: {text}")
    if peer_threads:
        print("with --peer-threads the peers did not have all cores: no fair comparison")
    show(turns, bounds, comparison)
    about = {"images": images, "model": model, "side": side, "format": kind, "settings": chosen}
    record(turns, about | {"differences": comparison.worst, "model_alone": bounds})


if __name__ == "__main__":
    typer.run(main)
