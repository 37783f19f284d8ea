"""How much of the cluster a scoring run takes: readers, detector actors, and what each is given.

config = PipelineConfig(batch_size=128).fill(connect())
"""

import torch
from pydantic import BaseModel, ConfigDict, Field

from sdmad.backbones.precision import Precision, half_type
from sdmad.errors import UserError
from sdmad.runtime.cluster import Resources, gpus_each

# A detector on CPUs computes in as many threads as the pool has cores for each; where that is not
# known, on a cluster that grows, in so many.
THREADS = 4


class PipelineConfig(BaseModel):
    """How much of the cluster a scoring run takes; what is None follows the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    batch_size: int = Field(default=64, ge=1, description="images in one forward pass")
    detectors: tuple[int, int] | None = Field(default=None, description="actors, least and most")
    detector_cpus: float | None = Field(default=None, gt=0)
    detector_gpus: float | None = Field(default=None, ge=0)
    detector_threads: int | None = Field(default=None, ge=1)
    reader_cpus: float | None = Field(default=None, gt=0)
    decode_seconds: float = Field(default=120, gt=0, description="longest for one image")
    precision: Precision = "auto"

    @property
    def computed(self) -> Precision:
        """The precision that a filled pipeline computes in: `single` or `half`."""
        half = self.precision == "half" or (self.precision == "auto" and bool(self.detector_gpus))
        return "half" if half else "single"

    def fill(self, resources: Resources) -> "PipelineConfig":
        """Every value set: one GPU a detector where there are GPUs, CPUs shared in halves else."""
        gpus = gpus_each(self.detector_gpus, resources, "--detector-gpus 1 --detectors 1:8")
        # An empty cluster may get small nodes: half a core each leaves room for a reader.
        small = resources.cpus <= 4
        most = int(resources.gpus // gpus) if gpus else int(resources.cpus) // THREADS
        detectors = self.detectors or (1, max(1, most))
        threads = max(1, int(resources.cpus) // detectors[1]) if resources.fixed else THREADS
        filled = PipelineConfig(
            batch_size=self.batch_size,
            detectors=detectors,
            detector_cpus=self.detector_cpus or (0.5 if small else 1.0),
            detector_gpus=gpus,
            detector_threads=self.detector_threads or threads,
            reader_cpus=self.reader_cpus or (0.5 if small else 1.0),
            decode_seconds=self.decode_seconds,
            precision=self.precision,
        )
        filled._check_room(resources)
        return filled

    def room(self, resources: Resources) -> tuple[int, int]:
        """Readers and detectors that `resources` hold of a filled pipeline, each at least one."""
        if self.detectors is None:
            raise AssertionError("a filled pipeline says how many detectors it takes")
        each, gpus = self.detector_cpus or 1.0, self.detector_gpus or 0.0
        fit = resources.gpus / gpus if gpus else resources.cpus / each
        detectors = max(1, min(self.detectors[1], int(fit)))
        readers = (resources.cpus - detectors * each) / (self.reader_cpus or 1.0)
        return max(1, int(readers)), detectors

    def _check_room(self, resources: Resources) -> None:
        """Raise `UserError` for a pool that this machine can never start: it would wait forever."""
        if not resources.fixed or self.detectors is None:
            return
        if not self.detector_gpus:
            half_type(torch.device("cpu"), self.precision)
        least = self.detectors[0]
        cpus = least * (self.detector_cpus or 0) + (self.reader_cpus or 0)
        gpus = least * (self.detector_gpus or 0)
        for name, needed, there in (("CPUs", cpus, resources.cpus), ("GPUs", gpus, resources.gpus)):
            if needed > there:
                raise UserError(
                    f"{least} detectors and one reader need {needed:g} {name}, and this machine "
                    f"has {there:g}; give fewer detectors, or less to each, or connect to a "
                    "cluster with RAY_ADDRESS"
                )


def parse_pool(text: str) -> tuple[int, int]:
    """`2:8` or `4` as least and most actors; `UserError` for anything else."""
    least, _, most = text.partition(":")
    try:
        pool = int(least), int(most or least)
    except ValueError:
        pool = (0, 0)
    if not 1 <= pool[0] <= pool[1]:
        raise UserError(f"detectors {text!r} is not a number or least:most, like 1:4")
    return pool
