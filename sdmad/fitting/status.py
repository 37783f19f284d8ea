"""How far a training run is, from any machine: from one listing and `run.json`.

for line in lines(read_status("s3://bucket/train")):
    print(line)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdmad.inputs.shots import in_order
from sdmad.storage import run_record
from sdmad.storage.fit_files import entries
from sdmad.words import counted, duration

JOB = "train_seeds"


@dataclass(frozen=True)
class TrainingStatus:
    """The state of a training run, as of `run_record.state`.

    `fits_by_shots` has the finished fits of this run's shots and seeds, also those of earlier runs
    except such as a refit has still to replace.
    `error` is the sentence with which a failed run has ended. None stands for what is not known.
    """

    output: str
    state: str
    error: str | None
    updated_seconds_ago: float | None
    fits_total: int
    fits_by_shots: dict[int | str, int]
    seconds_per_fit: float | None
    seconds_left: float | None

    @property
    def fits_done(self) -> int:
        return sum(self.fits_by_shots.values())


def read_status(output: str) -> TrainingStatus:
    """The state of the training run at `output`. Raises `UserError` if there is none."""
    record = run_record.read_record(output)
    by_shots: dict[int | str, int] = {}
    old = record.get("fits_before", {})
    for (shots, seed), entry in entries(output).items():
        if _of_grid(record, shots, seed) and old.get(f"{shots}/{seed}") != entry.etag:
            by_shots[shots] = by_shots.get(shots, 0) + 1
    done, total = sum(by_shots.values()), int(record.get("fits_total", 0))
    state, pace = run_record.state(record), _pace(record, done)
    left = pace * (total - done) if pace is not None and state == "working" else None
    return TrainingStatus(
        output=output,
        state=state,
        error=record.get("error"),
        updated_seconds_ago=run_record.age(record, "updated"),
        fits_total=total,
        fits_by_shots={shots: by_shots[shots] for shots in in_order(list(by_shots))},
        seconds_per_fit=pace,
        seconds_left=left,
    )


def _of_grid(record: dict[str, Any], shots: int | str, seed: int) -> bool:
    """Whether the run makes this fit; another run with this output may have made others."""
    return shots in record.get("shots", [shots]) and seed in record.get("seeds", [seed])


def _pace(record: dict[str, Any], done: int) -> float | None:
    """Seconds for each fit of this run, including its start."""
    made = done - int(record.get("fits_skipped", 0))
    seconds = record.get("seconds")
    return float(seconds) / made if seconds and made > 0 else None


def _named(shots: int | str) -> str:
    return counted(shots, "shot") if isinstance(shots, int) else f"shots={shots}"


def lines(status: TrainingStatus) -> Iterator[str]:
    """The state in words."""
    heard = status.updated_seconds_ago
    ago = ""
    if status.state in ("working", "silent") and heard is not None:
        ago = f", last sign of life {duration(heard)} ago"
    yield f"training to {status.output}"
    yield f"state       {run_record.in_words(status.state, status.error)}{ago}"
    yield f"done        {status.fits_done:,} of {counted(status.fits_total, 'fit')}" + "".join(
        f", {number:,} at {_named(shots)}" for shots, number in status.fits_by_shots.items()
    )
    pace, left = status.seconds_per_fit, status.seconds_left
    rate = f"one fit in {pace:,.1f} s, including start-up" if pace else "not known yet"
    yield f"rate        {rate}" + (f", about {duration(left)} left" if left is not None else "")
