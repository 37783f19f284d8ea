"""What an operator sees of a scoring run: Ray metrics, exported by every Ray node to Prometheus.

    sdmad_images_scored       images with scores, committed
    sdmad_failures            images without, by `stage` and `reason` (its kind: words before a
                              colon, without numbers)
    sdmad_units_committed     work units done by this run
    sdmad_units_left          work units that are not done yet
    sdmad_stage_seconds       busy time by `stage` (list, read, decode, model, write), all processes

Each has the tag `run`, the name that `run.json` and the logs have. They are written by the driver.
"""

import re

from ray.util.metrics import Counter, Gauge

_NUMBERS = re.compile(r"\d+")
MOST_KINDS = 40


class ScoringMonitor:
    """The counters and gauges of one run."""

    def __init__(self, run: str) -> None:
        self.tags = {"run": run}
        self.kinds: set[str] = set()
        self.images = Counter("sdmad_images_scored", "Images with scores, committed", ("run",))
        self.failures = Counter(
            "sdmad_failures", "Images without scores, by kind", ("run", "stage", "reason")
        )
        self.units = Counter("sdmad_units_committed", "Work units done by this run", ("run",))
        self.left = Gauge("sdmad_units_left", "Work units that are not done yet", ("run",))
        self.seconds = Counter("sdmad_stage_seconds", "Busy seconds by stage", ("run", "stage"))

    def commit(self, images: int, failures: list[tuple[str, str]], left: int) -> None:
        """One unit is written: scored images, (stage, reason) of the others, units left."""
        self.units.inc(1, self.tags)
        self.left.set(left, self.tags)
        if images:
            self.images.inc(images, self.tags)
        for stage, reason in failures:
            self.failures.inc(1, self.tags | {"stage": stage, "reason": self._kind(reason)})

    def busy(self, stage: str, seconds: float) -> None:
        """Some process was busy with a stage for so long."""
        if seconds > 0:
            self.seconds.inc(seconds, self.tags | {"stage": stage})

    def _kind(self, reason: str) -> str:
        """A reason without what is particular to one image, so that there are few kinds."""
        kind = _NUMBERS.sub("#", reason.partition(":")[0]).strip()[:60]
        if kind not in self.kinds and len(self.kinds) >= MOST_KINDS:
            return "other"
        self.kinds.add(kind)
        return kind
