"""Estimate of a scoring run: hours, requests, bytes, cost, and the part that limits its speed.

    archive = Archive(images=10**8, bytes_per_image=300_000, images_per_object=1000)
    estimate(archive, Pace.of_run(record), Cluster(cores=128, detectors=8, gigabits=50))

Nothing is measured here: the pace comes from the `run.json` of a run on the same kind of machine,
or from the user. Seconds are busy seconds of one core; for the model, of one detector.
"""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sdmad.archive.members import READ_BLOCK
from sdmad.archive.units import LOOSE_OBJECTS_PER_UNIT

LIST_PAGE = 1000
PUTS_PER_UNIT = 2
Limit = Literal["readers", "detectors", "network", "driver"]


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Plain):
    """The archive to score; `images_per_object` is 1 for loose objects."""

    images: int = Field(gt=0)
    bytes_per_image: float = Field(gt=0)
    images_per_object: float = Field(default=1000, ge=1)

    @property
    def objects(self) -> float:
        return self.images / self.images_per_object

    @property
    def units(self) -> float:
        """Number of work units: shards, or groups of loose objects."""
        if self.images_per_object > 1:
            return self.objects
        return self.images / LOOSE_OBJECTS_PER_UNIT


class Pace(_Plain):
    """Busy seconds for each image, and for each unit written (`commit`).

    `read` and `decode` are on one core, `model` on one detector, `driver` and `commit` on the
    driver, which collects and writes the score rows.
    """

    read: float = Field(gt=0)
    decode: float = Field(gt=0)
    model: float = Field(gt=0)
    driver: float = Field(default=2e-4, gt=0, description="seconds of the driver for each image")
    commit: float = Field(default=0.05, gt=0, description="seconds of the driver for each unit")

    @staticmethod
    def of_run(record: dict[str, Any]) -> "Pace":
        """The pace of a finished run, from its `run.json`.

        Raises `ValueError` when the run is not finished or scored no images.
        """
        images = record.get("images", 0) + record.get("failures", 0)
        seconds = record.get("stage_seconds")
        if not images or not seconds or "driver_cpu_seconds" not in record:
            raise ValueError("the run is not finished, or scored no images")
        return Pace(
            read=max(seconds["read"] / images, 1e-9),
            decode=max(seconds["decode"] / images, 1e-9),
            model=max(seconds["model"] / images, 1e-9),
            driver=max(record["driver_cpu_seconds"] / images, 1e-9),
            commit=max(seconds["write"] / record.get("writers", 1) / record["units_scored"], 1e-6),
        )


class Cluster(_Plain):
    """The cluster and its price."""

    cores: float = Field(gt=0, description="cores that read and decode")
    detectors: float = Field(gt=0, description="GPUs, or detectors on CPUs")
    gigabits: float = Field(gt=0, description="Gbit/s to the store, all nodes together")
    dollars: float = Field(default=0, ge=0, description="price of all nodes for one hour")
    start_minutes: float = Field(default=5, ge=0, description="minutes until detectors run")


class Estimate(_Plain):
    """The estimate of a run.

    `hours_alone` is the time that each part would need by itself, `limit` the slowest part, and
    `hours` its time plus the start-up.
    """

    hours_alone: dict[Limit, float]
    hours: float
    limit: Limit
    images_per_second: float
    list_requests: float
    get_requests: float
    put_requests: float
    gigabytes: float
    node_dollars: float
    request_dollars: float


class Prices(_Plain):
    """Prices of S3 requests in dollars for a thousand: standard storage, same region."""

    get: float = 0.0004
    put_and_list: float = 0.005


def estimate(
    archive: Archive, pace: Pace, cluster: Cluster, prices: Prices | None = None
) -> Estimate:
    """Duration and cost of a run whose parts overlap perfectly."""
    alone: dict[Limit, float] = {
        "readers": archive.images * (pace.read + pace.decode) / cluster.cores,
        "detectors": archive.images * pace.model / cluster.detectors,
        "network": archive.images * archive.bytes_per_image * 8 / (cluster.gigabits * 1e9),
        # The CPU time of writing is in both `driver` and `commit`, so this errs on the safe side.
        "driver": archive.images * pace.driver + archive.units * pace.commit,
    }
    hours = {name: seconds / 3600 for name, seconds in alone.items()}
    limit = max(hours, key=lambda name: hours[name])
    total = hours[limit] + cluster.start_minutes / 60
    lists = archive.objects / LIST_PAGE
    prices = prices or Prices()
    blocks = math.ceil(archive.bytes_per_image * archive.images_per_object / READ_BLOCK)
    gets, puts = archive.objects * blocks, archive.units * PUTS_PER_UNIT
    return Estimate(
        hours_alone=hours,
        hours=total,
        limit=limit,
        images_per_second=archive.images / (3600 * total),
        list_requests=lists,
        get_requests=gets,
        put_requests=puts,
        gigabytes=archive.images * archive.bytes_per_image / 1e9,
        node_dollars=total * cluster.dollars,
        request_dollars=(gets * prices.get + (lists + puts) * prices.put_and_list) / 1000,
    )
