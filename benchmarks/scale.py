"""The tables of docs/scale.md: ten million to a billion images on named instance types.

    python benchmarks/scale.py

The arithmetic is that of jobs/plan_cluster.py. Its paces are CPU times of one core, measured on the
machines of benchmarks/README.md by the commands beside the options (reading and decoding: what they
take alone, times what a run takes more), and of one GPU, which are computed: multiplications and
additions of ViT-L/14 at 336 pixels over the share of the data sheet's peak that an H100 reached in
a scoring run, here taken for all GPUs. Give your own. Prices are on-demand list prices as of
writing, us-east-1; they change.
"""

from dataclasses import dataclass
from typing import Annotated

import typer

from sdmad.scoring.capacity import Archive, Cluster, Pace, estimate

IMAGES = (10**6, 10**8)
IMAGES_PER_SHARD = 1000
HEAD_DOLLARS = 0.2016  # m7i.xlarge, for the driver of each job.


@dataclass(frozen=True)
class Fleet:
    """Workers of one instance type: vCPUs, Gbit/s that last, dollars an hour, of one node; GPUs
    and the dense TFLOP/s of one in half precision. `jobs` share nodes and archive, prefix by
    prefix."""

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
        """Of one job. GPU nodes read with all cores but one a GPU, which feeds it; CPU nodes share
        theirs so that readers and detectors end together."""
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


def main(
    read_ms: Annotated[float, typer.Option(help="scoring_limit.py decode")] = 0.39,
    decode_ms: Annotated[float, typer.Option(help="scoring_limit.py decode --format jpg")] = 2.79,
    driver_ms: Annotated[
        float, typer.Option(help="Of a run at hundreds of images a second: benchmarks/README.md")
    ] = 0.11,
    cpu_model_ms: Annotated[
        float, typer.Option(help="A core, ViT-B/32: gpu_forward.py, over what a run reaches of it")
    ] = 90.0,
    gflop: Annotated[
        float, typer.Option(help="Of an image, ViT-L/14 at 336: gpu_forward.py")
    ] = 368.0,
    utilisation: Annotated[
        float, typer.Option(help="Of the GPU's peak, in a run: benchmarks/README.md")
    ] = 0.29,
    kilobytes: Annotated[float, typer.Option(help="Of an encoded image.")] = 250.0,
) -> None:
    """Print two tables."""
    busy = {"read": read_ms / 1000, "decode": decode_ms / 1000, "driver": driver_ms / 1000}
    print(f"ViT-B/32 at 224 pixels on CPUs, {cpu_model_ms:g} ms of a core an image\n")
    cpu = Pace(model=cpu_model_ms / 1000, **busy)
    table(kilobytes, dict.fromkeys(CPU_FLEETS, cpu))
    print(f"\nViT-L/14 at 336 pixels on GPUs at {utilisation:.0%} of their peak (as an H100)\n")
    fleets = {
        fleet: Pace(model=gflop / (fleet.peak * 1000 * utilisation), **busy) for fleet in GPU_FLEETS
    }
    table(kilobytes, fleets)


if __name__ == "__main__":
    typer.run(main)
