"""Progress on stderr: a bar on a terminal, otherwise a line every `SECONDS_BETWEEN_LINES`."""

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sdmad import logs
from sdmad.words import as_typed

SECONDS_BETWEEN_LINES = 10.0
# What a run waits for at first.
STARTING = "starting: processes load the model"
STARTING_FITS = "starting: processes load the model and make the first fits"


def step(what: str, text: str) -> None:
    """Tell on stderr what a command does next, as in "evaluating: writing the report"."""
    if logs.wanted():
        logs.log("progress", what=what, note=text)
    else:
        logs.write(as_typed(f"{what}: {text}"))


class Tracker:
    """Shows progress while a block runs.

        with Tracker("scoring", total=40, unit="units") as tracker:
            tracker.update(3, "120 images/s")

    It prints to stderr, or logs if `SDMAD_LOG=json`. `waiting` says what the run waits for; it is
    shown until something is done or noted.
    """

    def __init__(self, what: str, total: int, unit: str, waiting: str = "") -> None:
        self.what, self.total, self.waiting = what, total, waiting
        self.unit = unit.removesuffix("s") if total == 1 else unit
        self.started = time.monotonic()
        self.done, self.note = 0, waiting
        self.ended = threading.Event()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(what, total=total, note=waiting)

    def __enter__(self) -> "Tracker":
        if self.bar:
            self.bar.start()
        else:
            self._line("started")
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        if self.bar:
            self.bar.stop()
        elif kind is None:
            self._line("finished")

    def update(self, done: int, note: str = "") -> None:
        """Set how many of `total` are done, and the `note` shown beside them."""
        self.done, self.note = done, note or ("" if done else self.waiting)
        if self.bar:
            self.bar.update(self.task, completed=done, note=self.note)

    def _tick(self) -> None:
        """Print a line regularly, also without updates, so that a waiting run is visible."""
        while not self.ended.wait(SECONDS_BETWEEN_LINES):
            self._line(self.note)

    def _line(self, note: str) -> None:
        seconds = time.monotonic() - self.started
        if logs.wanted():
            about = {"what": self.what, "done": self.done, "total": self.total, "unit": self.unit}
            logs.log("progress", **about, seconds=round(seconds, 1), note=note)
            return
        left = ""
        if 0 < self.done < self.total:
            left = f", {seconds / self.done * (self.total - self.done):.0f} s left"
        logs.write(
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {seconds:.0f} s{left}"
            + (f", {note}" if note else "")
        )
