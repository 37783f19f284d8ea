"""How far a training run is, from any machine: from one listing and `run.json`.

for line in lines(read_status("s3://bucket/train")):
    print(line)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdmad.storage import run_record
from sdmad.storage.fit_files import list_fits
from sdmad.words import counted, duration

JOB = "train_seeds"


@dataclass(frozen=True)
class TrainingStatus:
    """The state of a training run, as of `run_record.state`.

    `fits_by_shots` has the fits that are there, of all runs with this output. None stands for what
    is not known.
    """

    output: str
    state: str
    updated_seconds_ago: float | None
    fits_total: int
    fits_by_shots: dict[int, int]
    seconds_per_fit: float | None
    seconds_left: float | None

    @property
    def fits_done(self) -> int:
        return sum(self.fits_by_shots.values())


def read_status(output: str) -> TrainingStatus:
    """The state of the training run at `output`. Raises `UserError` if there is none."""
    record = run_record.read_record(output)
    by_shots: dict[int, int] = {}
    for shots, _ in list_fits(output):
        by_shots[shots] = by_shots.get(shots, 0) + 1
    done, total = sum(by_shots.values()), int(record.get("fits_total", 0))
    state, pace = run_record.state(record), _pace(record, done)
    left = pace * (total - done) if pace is not None and state == "working" else None
    return TrainingStatus(
        output=output,
        state=state,
        updated_seconds_ago=run_record.age(record, "updated"),
        fits_total=total,
        fits_by_shots=dict(sorted(by_shots.items())),
        seconds_per_fit=pace,
        seconds_left=left,
    )


def _pace(record: dict[str, Any], done: int) -> float | None:
    """Seconds for each fit of this run, including its start."""
    made = done - int(record.get("fits_skipped", 0))
    seconds = record.get("seconds")
    return float(seconds) / made if seconds and made > 0 else None


def lines(status: TrainingStatus) -> Iterator[str]:
    """The state in words."""
    heard = status.updated_seconds_ago
    ago = ""
    if status.state in ("working", "silent") and heard is not None:
        ago = f", last sign of life {duration(heard)} ago"
    yield f"training to {status.output}"
    yield f"state       {run_record.STATES.get(status.state, status.state)}{ago}"
    yield f"done        {status.fits_done:,} of {counted(status.fits_total, 'fit')}" + "".join(
        f", {number} at {counted(shots, 'shot')}" for shots, number in status.fits_by_shots.items()
    )
    pace, left = status.seconds_per_fit, status.seconds_left
    rate = f"one fit in {pace:,.1f} s with the start-up of this run" if pace else "not known yet"
    yield f"rate        {rate}" + (f", about {duration(left)} left" if left is not None else "")
