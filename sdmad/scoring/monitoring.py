"""Counters and gauges of a scoring run, which every Ray node exports to Prometheus.

    sdmad_images_scored       images with scores, written
    sdmad_failures            images without scores, by `stage` and `reason` (the part before the
                              first colon, numbers replaced by #)
    sdmad_units_committed     work units written by this run
    sdmad_units_left          work units still to do
    sdmad_stage_seconds       busy seconds by `stage` (list, read, decode, model, write), summed
                              over all processes

Each has the tag `run`, the run's name in `run.json` and in the logs. The driver updates them.
"""

from ray.util.metrics import Counter, Gauge

from sdmad.scoring.reasons import kind_of

MOST_KINDS = 40


class ScoringMonitor:
    def __init__(self, run: str) -> None:
        self.tags = {"run": run}
        self.kinds: set[str] = set()
        self.images = Counter("sdmad_images_scored", "Images with scores, written", ("run",))
        self.failures = Counter(
            "sdmad_failures",
            "Images without scores, by stage and reason",
            ("run", "stage", "reason"),
        )
        self.units = Counter("sdmad_units_committed", "Work units written by this run", ("run",))
        self.left = Gauge("sdmad_units_left", "Work units still to do", ("run",))
        self.seconds = Counter("sdmad_stage_seconds", "Busy seconds by stage", ("run", "stage"))

    def commit(self, images: int, failures: list[tuple[str, str]], left: int) -> None:
        """Count a written unit: its scored images, (stage, reason) of its failures, units left."""
        self.units.inc(1, self.tags)
        self.left.set(left, self.tags)
        if images:
            self.images.inc(images, self.tags)
        for stage, reason in failures:
            self.failures.inc(1, self.tags | {"stage": stage, "reason": self._kind(reason)})

    def busy(self, stage: str, seconds: float) -> None:
        """Add busy seconds of a stage."""
        if seconds > 0:
            self.seconds.inc(seconds, self.tags | {"stage": stage})

    def _kind(self, reason: str) -> str:
        """A reason without the details of one image; "other" once there are `MOST_KINDS` kinds."""
        kind = kind_of(reason)
        if kind not in self.kinds and len(self.kinds) >= MOST_KINDS:
            return "other"
        self.kinds.add(kind)
        return kind
