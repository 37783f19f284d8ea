"""Resources of a scoring run: how many readers and detector actors, and what each gets.

config = PipelineConfig(batch_size=128).fill(connect())
"""

import torch
from pydantic import BaseModel, ConfigDict, Field

from sdmad.backbones.precision import Precision, half_type
from sdmad.errors import UserError
from sdmad.runtime.cluster import Resources, gpus_each
from sdmad.words import counted

# Threads of a detector on CPUs where the number of cores is not known: on a cluster that can grow.
THREADS = 4


class PipelineConfig(BaseModel):
    """Resources of a scoring run; `fill` replaces None by values that suit the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    batch_size: int = Field(default=64, ge=1, description="images in one forward pass")
    detectors: tuple[int, int] | None = Field(
        default=None, description="fewest and most detector actors"
    )
    detector_cpus: float | None = Field(default=None, gt=0)
    detector_gpus: float | None = Field(default=None, ge=0)
    detector_threads: int | None = Field(default=None, ge=1)
    detector_calls: int | None = Field(
        default=None, ge=1, description="batches that a detector has in work at once"
    )
    reader_cpus: float | None = Field(default=None, gt=0)
    decode_seconds: float = Field(default=120, gt=0, description="longest time to decode one image")
    precision: Precision = "auto"

    @property
    def computed(self) -> Precision:
        """The precision of a filled pipeline: `single` or `half`."""
        half = self.precision == "half" or (self.precision == "auto" and bool(self.detector_gpus))
        return "half" if half else "single"

    def fill(self, resources: Resources) -> "PipelineConfig":
        """Set every value: one GPU for each detector where there are GPUs, otherwise CPUs.

        Raises `UserError` when this machine lacks the CPUs or GPUs, or cannot compute in the
        precision.
        """
        gpus = gpus_each(self.detector_gpus, resources, "--detector-gpus 1 --detectors 1:8")
        # New nodes of a cluster may be small: half a core each leaves room for a reader.
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
            # While a GPU computes one batch, the next is copied and rows are made of the last.
            detector_calls=self.detector_calls or (2 if gpus else 1),
            reader_cpus=self.reader_cpus or (0.5 if small else 1.0),
            decode_seconds=self.decode_seconds,
            precision=self.precision,
        )
        filled._check_room(resources)
        return filled

    def room(self, resources: Resources) -> tuple[int, int]:
        """How many readers and detectors of a filled pipeline fit `resources`, at least one of
        each."""
        if self.detectors is None:
            raise AssertionError("a filled pipeline says how many detectors it takes")
        each, gpus = self.detector_cpus or 1.0, self.detector_gpus or 0.0
        fit = resources.gpus / gpus if gpus else resources.cpus / each
        detectors = max(1, min(self.detectors[1], int(fit)))
        readers = (resources.cpus - detectors * each) / (self.reader_cpus or 1.0)
        return max(1, int(readers)), detectors

    def _check_room(self, resources: Resources) -> None:
        """Raise `UserError` for a pool that this machine cannot start: it would wait forever."""
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
                    f"{counted(least, 'detector')} and one reader need {needed:g} {name}, but this "
                    f"machine has {there:g}; use fewer detectors, give less to each, or connect to "
                    "a cluster with RAY_ADDRESS"
                )


def parse_pool(text: str) -> tuple[int, int]:
    """Fewest and most actors from `2:8` or `4`; `UserError` for any other form."""
    least, _, most = text.partition(":")
    try:
        pool = int(least), int(most or least)
    except ValueError:
        pool = (0, 0)
    if not 1 <= pool[0] <= pool[1]:
        raise UserError(f"detectors {text!r} is neither a number nor a range such as 1:4")
    return pool
