"""The tables of docs/scale.md: time and cost of large archives on AWS instance types.

    python benchmarks/scale.py

Nothing is measured here: the arithmetic is that of jobs/plan_cluster.py. The defaults of the
options are measured CPU times, whose commands stand in the help of each option and in
docs/scale.md. The time of an image on a GPU is computed: the FLOP of ViT-L/14 at 336 pixels over
`--utilisation` of the GPU's peak, a share that was measured in runs on an H100 and is assumed for
all GPUs. Prices are on-demand list prices in us-east-1 and change.
"""

from dataclasses import dataclass
from typing import Annotated

import typer

from sdmad.scoring.capacity import Archive, Cluster, Pace, estimate

IMAGES = (10**6, 10**8)
SECOND = 10**8  # Images that a second catalog scores from activations.
IMAGES_PER_SHARD = 1000
STORAGE_DOLLARS = 0.023  # A GB in S3 standard storage for a month.
HEAD_DOLLARS = 0.2016  # An hour of an m7i.xlarge, for the driver of each job.


@dataclass(frozen=True)
class Fleet:
    """Workers of one instance type.

    Of one node: `cores` (vCPUs), sustained `gigabits` a second, `dollars` an hour, `gpus`. `peak`
    is the TFLOP/s of one GPU in half precision without sparsity. `jobs` divide nodes and archive.
    """

    nodes: int
    instance: str
    cores: int
    gigabits: float
    dollars: float
    gpus: int = 0
    peak: float = 0
    jobs: int = 1

    def __str__(self) -> str:
        together = f"{self.nodes} x {self.instance}"
        return together if self.jobs == 1 else f"{together}, {self.jobs} jobs"

    def cluster(self, pace: Pace) -> Cluster:
        """The share of one job.

        On GPU nodes one core a GPU feeds it, and the others read. On CPU nodes the cores are
        divided so that readers and detectors finish together.
        """
        nodes = self.nodes / self.jobs
        reading, detectors = float(self.cores - self.gpus), float(self.gpus)
        if not self.gpus:
            reads = pace.read + pace.decode
            reading = self.cores * reads / (reads + pace.model)
            detectors = self.cores - reading
        return Cluster(
            cores=nodes * reading,
            detectors=nodes * detectors,
            gigabits=nodes * self.gigabits,
            dollars=nodes * self.dollars + HEAD_DOLLARS,
        )


CPU_FLEETS = (
    Fleet(4, "m7a.4xlarge", 16, 6.25, 0.92736),
    Fleet(20, "m7a.4xlarge", 16, 6.25, 0.92736),
)
STORED_FLEETS = (
    Fleet(1, "m7a.4xlarge", 16, 6.25, 0.92736),
    Fleet(4, "m7a.4xlarge", 16, 6.25, 0.92736, jobs=4),
)
GPU_FLEETS = (
    Fleet(8, "g6.2xlarge", 8, 2.5, 0.9776, gpus=1, peak=121),
    Fleet(2, "g6e.12xlarge", 48, 100, 10.49264, gpus=4, peak=362),
    Fleet(1, "p5.48xlarge", 192, 100, 55.04, gpus=8, peak=989),
    Fleet(4, "p5.48xlarge", 192, 100, 55.04, gpus=8, peak=989),
    Fleet(4, "p5.48xlarge", 192, 100, 55.04, gpus=8, peak=989, jobs=8),
)


def row(images: int, fleet: Fleet, kilobytes: float, pace: Pace) -> str:
    jobs = fleet.jobs
    archive = Archive(
        images=images // jobs, bytes_per_image=1000 * kilobytes, images_per_object=IMAGES_PER_SHARD
    )
    each = estimate(archive, pace, fleet.cluster(pace))
    requests = (each.get_requests, each.put_requests, each.list_requests)
    cells = (
        f"10^{len(str(images)) - 1}",
        str(fleet),
        f"{each.hours:,.1f}",
        f"{jobs * each.images_per_second:,.0f}",
        each.limit if fleet.gpus or each.limit in ("driver", "network") else "cores",
        f"{jobs * each.gigabytes / 1000:,.1f}",
        " / ".join(f"{jobs * count:,.0f}" for count in requests),
        f"{jobs * (each.node_dollars + each.request_dollars):,.0f}",
        f"{jobs * each.request_dollars:,.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def table(kilobytes: float, fleets: dict[Fleet, Pace]) -> None:
    head = ("images", "workers", "hours", "a second", "limit", "TB", "GET / PUT / LIST", "$")
    print("| " + " | ".join((*head, "of these, requests")) + " |")
    print("|---" * (len(head) + 1) + "|")
    for images in IMAGES:
        for fleet, pace in fleets.items():
            print(row(images, fleet, kilobytes, pace))


def stored_row(stored_bytes: float, stored_ms: float, fleet: Fleet, busy: Pace) -> str:
    """Scoring 10^8 images again, from activations."""
    pace = busy.model_copy(update={"read": 1e-9, "decode": 1e-9, "model": stored_ms / 1000})
    archive = Archive(
        images=SECOND // fleet.jobs,
        bytes_per_image=stored_bytes,
        images_per_object=IMAGES_PER_SHARD,
    )
    each = estimate(archive, pace, fleet.cluster(pace))
    gigabytes = SECOND * stored_bytes / 1e9
    cells = (
        str(fleet),
        f"{each.hours:,.1f}",
        f"{fleet.jobs * each.images_per_second:,.0f}",
        each.limit if each.limit in ("driver", "network") else "cores",
        f"{gigabytes / 1000:,.2f}",
        f"{fleet.jobs * (each.node_dollars + each.request_dollars):,.1f}",
        f"{gigabytes * STORAGE_DOLLARS:,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def main(
    read_ms: Annotated[float, typer.Option(help="Read, a core: scoring_limit.py decode.")] = 0.39,
    decode_ms: Annotated[float, typer.Option(help="Decode, a core: the same.")] = 2.79,
    driver_ms: Annotated[float, typer.Option(help="Driver, an image: driver_cost.py.")] = 0.0191,
    cpu_model_ms: Annotated[
        float, typer.Option(help="ViT-B/32, an image on a core: gpu_forward.py, scoring_limit.py.")
    ] = 90.0,
    gflop: Annotated[float, typer.Option(help="ViT-L/14-336, an image: gpu_forward.py.")] = 368.0,
    utilisation: Annotated[
        float, typer.Option(help="Share of a GPU's peak in a run: docs/scale.md.")
    ] = 0.39,
    kilobytes: Annotated[float, typer.Option(help="Size of an encoded image.")] = 250.0,
    stored_bytes: Annotated[
        float, typer.Option(help="Activations of an image, ViT-B/32: activations.py.")
    ] = 4319.0,
    stored_ms: Annotated[
        float, typer.Option(help="Score them with 8 seeds, a core: the same, less the driver.")
    ] = 1.73,
) -> None:
    """Print the tables of docs/scale.md."""
    busy = {"read": read_ms / 1000, "decode": decode_ms / 1000, "driver": driver_ms / 1000}
    print(f"ViT-B/32 at 224 pixels on CPUs, {cpu_model_ms:g} ms of a core an image\n")
    cpu = Pace(model=cpu_model_ms / 1000, **busy)
    table(kilobytes, dict.fromkeys(CPU_FLEETS, cpu))
    print(f"\nViT-L/14 at 336 pixels on GPUs at {utilisation:.0%} of their peak (as an H100)\n")
    fleets = {
        fleet: Pace(model=gflop / (fleet.peak * 1000 * utilisation), **busy) for fleet in GPU_FLEETS
    }
    table(kilobytes, fleets)
    print("\n10^8 images again, with another catalog and 8 seeds, from activations of ViT-B/32\n")
    heads = ("workers", "hours", "a second", "limit", "TB", "$", "$ a month to store")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for fleet in STORED_FLEETS:
        print(stored_row(stored_bytes, stored_ms, fleet, cpu))


if __name__ == "__main__":
    typer.run(main)
