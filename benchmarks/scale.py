"""The tables of docs/scale.md: ten million to a billion images on named instance types.

    python benchmarks/scale.py

The arithmetic is that of jobs/plan_cluster.py. Its paces are busy times of one core, measured on
the machine of benchmarks/README.md by the commands beside the options, and of one GPU, which are
computed: multiplications and additions of ViT-L/14 at 336 pixels over a share of the data sheet's
peak. Give your own. Prices are on-demand list prices as of writing, us-east-1; they change.
"""

from dataclasses import dataclass
from typing import Annotated

import typer

from sdmad.capacity import Archive, Cluster, Estimate, Pace, estimate

IMAGES = (10**7, 10**8, 10**9)
IMAGES_PER_SHARD = 1000
HEAD_DOLLARS = 0.2016  # m7i.xlarge


@dataclass(frozen=True)
class Fleet:
    """Workers of one instance type: vCPUs, Gbit/s that last, dollars an hour, of one node; GPUs
    and the dense TFLOP/s of one in half precision."""

    nodes: int
    instance: str
    cores: int
    gigabits: float
    dollars: float
    gpus: int = 0
    peak: float = 0

    def cluster(self) -> Cluster:
        # A core of a GPU node feeds the device; CPU nodes share theirs between both sides, and
        # each side is given half of them.
        reading = self.cores - self.gpus if self.gpus else self.cores / 2
        return Cluster(
            cores=self.nodes * reading,
            detectors=self.nodes * (self.gpus or self.cores / 2),
            gigabits=self.nodes * self.gigabits,
            dollars=self.nodes * self.dollars + HEAD_DOLLARS,
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
)


def row(images: int, fleet: Fleet, found: Estimate) -> str:
    cells = (
        f"10^{len(str(images)) - 1}",
        f"{fleet.nodes} x {fleet.instance}",
        f"{found.hours:,.1f}",
        f"{found.images_per_second:,.0f}",
        found.limit,
        f"{found.gigabytes / 1000:,.0f} TB",
        f"{found.get_requests:,.0f} / {found.put_requests:,.0f} / {found.list_requests:,.0f}",
        f"{found.node_dollars + found.request_dollars:,.0f}",
        f"{found.request_dollars:,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def table(kilobytes: float, fleets: dict[Fleet, Pace]) -> None:
    print(
        "| images | workers | hours | a second | limit | read | GET / PUT / LIST | $ | of requests |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for images in IMAGES:
        archive = Archive(
            images=images,
            bytes_per_image=1000 * kilobytes,
            images_per_object=IMAGES_PER_SHARD,
        )
        for fleet, pace in fleets.items():
            print(row(images, fleet, estimate(archive, pace, fleet.cluster())))


def main(
    read_ms: Annotated[float, typer.Option(help="scoring_limit.py decode")] = 1.0,
    decode_ms: Annotated[float, typer.Option(help="scoring_limit.py decode --format jpg")] = 8.0,
    driver_ms: Annotated[float, typer.Option(help="growth.py")] = 0.2,
    cpu_model_ms: Annotated[
        float, typer.Option(help="A core, ViT-B/32: gpu_forward.py --model ViT-B-32")
    ] = 90.0,
    gflop: Annotated[float, typer.Option(help="Of an image: gpu_forward.py")] = 382.0,
    utilisation: Annotated[float, typer.Option(help="Of the GPU's peak; assumed")] = 0.4,
    kilobytes: Annotated[float, typer.Option(help="Of an encoded image.")] = 250.0,
) -> None:
    """Print two tables."""
    busy = {"read": read_ms / 1000, "decode": decode_ms / 1000, "driver": driver_ms / 1000}
    print(f"ViT-B/32 at 224 pixels on CPUs, {cpu_model_ms:g} ms of a core an image\n")
    cpu = Pace(model=cpu_model_ms / 1000, **busy)
    table(kilobytes, dict.fromkeys(CPU_FLEETS, cpu))
    print(f"\nViT-L/14 at 336 pixels on GPUs at {utilisation:.0%} of their peak (assumed)\n")
    fleets = {
        fleet: Pace(model=gflop / (fleet.peak * 1000 * utilisation), **busy) for fleet in GPU_FLEETS
    }
    table(kilobytes, fleets)


if __name__ == "__main__":
    typer.run(main)
