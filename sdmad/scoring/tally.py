"""What a run counts and measures of itself, for `run.json`, `sdmad status` and its last line."""

import time
from dataclasses import dataclass, field
from typing import Any

from sdmad.scoring import writing
from sdmad.scoring.monitoring import ScoringMonitor
from sdmad.storage.run_record import now
from sdmad.words import counted

STAGES = ("list", "read", "decode", "model", "write")
COUNTS = ("units", "images", "failures")


@dataclass(frozen=True)
class Moment:
    """A point in time on the driver: monotonic seconds, and CPU seconds of its process."""

    wall: float
    cpu: float


@dataclass
class Tally:
    """Counts of a run so far; `seconds` is busy time by stage, summed over processes.

    `skipped` is the number of units that were finished before. `readers` and `detectors` are the
    numbers that fit the cluster, `writers` is that of threads. `first` is the moment of the first
    scores, `commit` the time of the last written unit.
    """

    units: int = 0
    images: int = 0
    failures: int = 0
    skipped: int = 0
    readers: int = 1
    detectors: int = 1
    writers: int = writing.THREADS
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    first: "Moment | None" = None
    commit: str | None = None

    def spend(self, stage: str, seconds: float, monitor: ScoringMonitor) -> None:
        self.seconds[stage] += seconds
        monitor.busy(stage, seconds)

    def share(self) -> dict[str, float]:
        busy = sum(self.seconds.values()) or 1.0
        return {stage: round(self.seconds[stage] / busy, 4) for stage in STAGES}

    def side_by_side(self) -> dict[str, tuple[float, int, str]]:
        """Busy seconds of each part of the run, and by how many of what they are shared."""
        seconds = self.seconds
        return {
            "model": (seconds["model"], self.detectors, "detector"),
            "reading and decoding": (seconds["read"] + seconds["decode"], self.readers, "reader"),
            "list": (seconds["list"], 1, "process"),
            "write": (seconds["write"], self.writers, "thread"),
        }

    def bottleneck(self) -> str:
        """The slowest stage, given how many readers and detectors run at once."""
        parts = self.side_by_side()
        slowest = max(parts, key=lambda part: parts[part][0] / parts[part][1])
        if slowest == "reading and decoding":
            return max("read", "decode", key=lambda stage: self.seconds[stage])
        return slowest

    def bottleneck_because(self) -> str:
        """The seconds that `bottleneck` compares, the longest first."""
        parts = sorted(
            ((busy / number, busy, number, noun, part))
            for part, (busy, number, noun) in self.side_by_side().items()
        )
        texts = [
            f"{part} {each:.1f} s" + (f" ({busy:.1f} s on {counted(n, noun)})" if n > 1 else "")
            for each, busy, n, noun, part in reversed(parts)
        ]
        return "busy seconds of each process: " + ", ".join(texts)


def counted_before(earlier: dict[str, Any]) -> dict[str, int]:
    """What all runs before this one have counted; units whose run was killed may be missing."""
    if "all_runs" in earlier:
        return {name: int(earlier["all_runs"][name]) for name in COUNTS}
    if earlier.get("units_skipped"):
        return dict.fromkeys(COUNTS, 0)
    names = {"units": "units_scored", "images": "images", "failures": "failures"}
    return {name: int(earlier.get(key, 0)) for name, key in names.items()}


def measured(tally: Tally, begin: float, before: dict[str, int]) -> dict[str, Any]:
    """What the record says of the work so far; `begin` is when streaming began."""
    first = tally.first
    counts = {"units": tally.units, "images": tally.images, "failures": tally.failures}
    return {
        "updated": now(),
        "last_commit": tally.commit,
        "units_scored": tally.units,
        "images": tally.images,
        "failures": tally.failures,
        "all_runs": {name: before[name] + count for name, count in counts.items()},
        "seconds": round(time.monotonic() - begin, 2),
        "seconds_to_first_scores": round(first.wall - begin, 2) if first else None,
        "images_per_second": _rate(tally, begin, first),
        "stage_seconds": {stage: round(tally.seconds[stage], 3) for stage in STAGES},
        "stage_share": tally.share(),
        # Counted from the first scores, since the time to start does not grow with the archive.
        "driver_cpu_seconds": round(time.process_time() - first.cpu, 3) if first else 0.0,
        "readers": tally.readers,
        "detectors": tally.detectors,
        "writers": tally.writers,
        "bottleneck": tally.bottleneck() if first else None,
        "bottleneck_because": tally.bottleneck_because() if first else None,
    }


def _rate(tally: Tally, begin: float, first: Moment | None) -> float:
    """Images per second since streaming began, including the start-up of the actors."""
    seconds = time.monotonic() - begin
    return round((tally.images + tally.failures) / seconds, 2) if first else 0.0
