"""A run on the driver: make the plan, stream the rows, write finished units, `run.json`.

What is made of the images is a `Task`: scores of images here, activations in `encode`, scores of
activations in `stored`. The driver holds only the rows of units in progress. Its cost grows with
the number of units.
"""

import secrets
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sdmad import logs, storage
from sdmad.archive.units import WorkUnit
from sdmad.backbones.loading import load_backbone
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.fits import code_version
from sdmad.runtime.cluster import Resources, connect
from sdmad.runtime.progress import Tracker
from sdmad.scoring import tables, writing
from sdmad.scoring.actor import DetectorActor
from sdmad.scoring.ledger import Ledger
from sdmad.scoring.monitoring import ScoringMonitor
from sdmad.scoring.pipeline import Operators, stream_rows
from sdmad.scoring.plan import SCORING, Kind, Plan, Source, make_plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.tables import ScoreColumns
from sdmad.scoring.writing import UnitWriter
from sdmad.storage import run_record

JOB = "score_archive"
# How often a unit is begun whose readers die so that its rows do not fit together; from the second
# time on its images are decoded in quarantine.
ATTEMPTS = 5
VERBS = {tables.SCORES: "scoring", tables.ACTIVATIONS: "encoding"}
STAGES = ("list", "read", "decode", "model", "write")


@dataclass
class Tally:
    """Counts of a run so far; `seconds` is busy time by stage, summed over processes.

    `readers` and `detectors` are the numbers that fit the cluster, `writers` is that of threads.
    """

    units: int = 0
    images: int = 0
    failures: int = 0
    readers: int = 1
    detectors: int = 1
    writers: int = writing.THREADS
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def spend(self, stage: str, seconds: float, monitor: ScoringMonitor) -> None:
        self.seconds[stage] += seconds
        monitor.busy(stage, seconds)

    def share(self) -> dict[str, float]:
        busy = sum(self.seconds.values()) or 1.0
        return {stage: round(self.seconds[stage] / busy, 4) for stage in STAGES}

    def bottleneck(self) -> str:
        """The slowest stage, given how many readers and detectors run at once."""
        reading = (self.seconds["read"] + self.seconds["decode"]) / self.readers
        model = self.seconds["model"] / self.detectors
        others = {"list": self.seconds["list"], "write": self.seconds["write"] / self.writers}
        longest = max(reading, model, *others.values())
        if longest == model:
            return "model"
        if longest == reading:
            return max("read", "decode", key=lambda stage: self.seconds[stage])
        return max(others, key=lambda stage: others[stage])


@dataclass(frozen=True)
class Task:
    """What a run makes of the images of an archive.

    `kind` says which table is written, with rows of `schema` and with `metadata`. `operators` are
    those for a configuration that `fill` has filled. `job` is the name of the run in `run.json`,
    `source` takes the place of the archive.
    """

    job: str
    archive: str
    kind: Kind
    schema: pa.Schema
    metadata: dict[str, str]
    operators: Callable[[PipelineConfig], Operators]
    source: Source | None = None
    fill: Callable[[PipelineConfig, Resources], PipelineConfig] = PipelineConfig.fill


@dataclass(frozen=True)
class _Moment:
    """A point in time on the driver: monotonic seconds, and CPU seconds of its process."""

    wall: float
    cpu: float


def score_archive(
    archive: str,
    detector_uri: str,
    output: str,
    config: PipelineConfig,
    per_seed: bool = False,
    backbone: str | None = None,
    accept_changes: bool = False,
    prune: bool = False,
) -> Tally:
    """Score the unfinished work units of an archive and write `run.json`; URIs must be resolved.

    `accept_changes` and `prune` are those of `make_plan`. Raises `UserError` before any work starts
    when archive, detector and output do not match.
    """
    run_record.read_earlier(output, JOB)
    detector = Detector.load(detector_uri, device="cpu", backbone=backbone)
    columns = ScoreColumns(detector.catalog.category_names, detector.num_seeds, per_seed)
    spec = detector.spec
    metadata = score_metadata(archive, detector_uri, detector, per_seed)
    del detector
    load_backbone.cache_clear()

    def operators(filled: PipelineConfig) -> Operators:
        device = None if filled.detector_gpus else "cpu"
        return Operators(
            read_and_decode,
            {"spec": spec, "decode_seconds": filled.decode_seconds},
            DetectorActor,
            (
                detector_uri,
                backbone,
                columns,
                filled.detector_threads,
                device,
                filled.precision,
            ),
        )

    task = Task(JOB, archive, SCORING, columns.schema, metadata, operators)
    return run_task(task, output, config, accept_changes, prune)


def run_task(
    task: Task, output: str, config: PipelineConfig, accept_changes: bool, prune: bool
) -> Tally:
    """Do a task for all unfinished work units and write `run.json`."""
    started, run = datetime.now(UTC), secrets.token_hex(4)
    earlier = run_record.read_earlier(output, task.job)
    metadata = task.metadata | {"precision": config.precision}
    clock = time.monotonic()
    plan = make_plan(task.archive, output, metadata, accept_changes, prune, task.kind, task.source)
    tally = Tally()
    tally.seconds["list"] = time.monotonic() - clock
    record = {
        "job": task.job,
        "run": run,
        "status": "running",
        "started": started.isoformat(timespec="seconds"),
        **metadata,
        "units_total": len(plan.units),
        "units_skipped": len(plan.done),
        "objects_gone": len(plan.changes.gone - plan.pruned),
        "changes": earlier.get("changes", []) + _changes(task.archive, run, plan, accept_changes),
    }
    run_record.write_record(output, record)
    begin = time.monotonic()
    try:
        first = _stream(plan, task, config, output, tally, record)
    except BaseException as error:
        record["status"] = "stopped" if _is_stop(error) else "failed"
        _finish(record, output, tally)
        raise
    record |= {
        "status": "finished",
        "seconds": round(time.monotonic() - begin, 2),
        "seconds_to_first_scores": round(first.wall - begin, 2) if first else None,
        "images_per_second": _rate(tally, begin, first),
        "stage_seconds": {stage: round(tally.seconds[stage], 3) for stage in STAGES},
        "stage_share": tally.share(),
        # Counted from the first scores, since the time to start does not grow with the archive.
        "driver_cpu_seconds": round(time.process_time() - first.cpu, 3) if first else 0.0,
        "writers": tally.writers,
        "bottleneck": tally.bottleneck(),
    }
    _finish(record, output, tally)
    return tally


def _is_stop(error: BaseException) -> bool:
    """Whether the user or the cluster has stopped the run; a lost head is a `SystemExit` of 2."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM
    )


def _changes(archive: str, run: str, plan: Plan, accepted: bool) -> list[dict[str, Any]]:
    """What this run took out of the plan and the tables, for the record; empty if nothing."""
    sets = {"pruned": plan.pruned}
    if accepted:
        sets |= {"left": plan.changes.left, "changed": plan.changes.changed}
    named = {
        key: [storage.relative(uri, archive) for uri in sorted(uris)]
        for key, uris in sets.items()
        if uris
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [{"run": run, "time": now, **named}] if named else []


def _finish(record: dict[str, Any], output: str, tally: Tally) -> None:
    record |= {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "units_scored": tally.units,
        "images": tally.images,
        "failures": tally.failures,
    }
    run_record.write_record(output, record)


def score_metadata(archive: str, uri: str, detector: Detector, per_seed: bool) -> dict[str, str]:
    """What plan and tables say of scores by a detector, read from `uri`."""
    return {
        "archive": archive,
        "source": "images",
        "detector": detector.digest,
        "detector_uri": uri,
        "backbone": f"{detector.provenance.backbone} {detector.backbone.fingerprint}",
        "input": detector.spec.to_json(),
        "catalog": detector.catalog.digest,
        "categories": ";".join(detector.catalog.category_names),
        "seeds": ";".join(map(str, detector.seeds)),
        "per_seed": str(per_seed).lower(),
        "code_version": code_version(),
    }


def _rate(tally: Tally, begin: float, first: _Moment | None) -> float:
    """Images per second since streaming began, including the start-up of the actors."""
    seconds = time.monotonic() - begin
    return round((tally.images + tally.failures) / seconds, 2) if first else 0.0


def _stream(
    plan: Plan,
    task: Task,
    config: PipelineConfig,
    output: str,
    tally: Tally,
    record: dict[str, Any],
) -> _Moment | None:
    """Run the pipeline and write finished units; returns the moment of the first rows."""
    run = record["run"]
    if not plan.todo:
        return None
    filled = task.fill(config, connect())
    record["pipeline"] = filled.model_dump()
    metadata = task.metadata | {"precision": filled.computed}
    _check_precision(output, plan, filled.computed, task.kind.table)
    operators = task.operators(filled)
    left, attempts, first = plan.todo, 0, None
    ledger, monitor = Ledger(), ScoringMonitor(run)
    monitor.busy("list", tally.seconds["list"])
    begin = time.monotonic()

    def write(unit: str, rows: pa.Table) -> _Written:
        return _commit(output, unit, rows, task, metadata)

    def count(written: Iterable[_Written]) -> None:
        for unit in written:
            _count(unit, tally, monitor, run, len(plan.todo))
        rate = (tally.images + tally.failures) / (time.monotonic() - begin)
        note = f"{tally.images} images, {tally.failures} failures, {rate:.0f} images/s"
        tracker.update(tally.units, note)

    with Tracker(VERBS[task.kind.table], len(left), "units") as tracker:
        while left:
            if attempts == ATTEMPTS:
                raise _never_complete(left)
            writer = UnitWriter(write)
            try:
                with writer:
                    for batch in stream_rows(left, operators, filled, run, attempts > 0):
                        first = first or _Moment(time.monotonic(), time.process_time())
                        for stage in ("read", "decode", "model"):
                            tally.spend(stage, pc.sum(batch[f"{stage}_seconds"]).as_py(), monitor)
                        for unit, rows in ledger.add(batch):
                            writer.add(unit, rows)
                        count(writer.done())
            finally:
                count(writer.done())
            attempts += 1
            missing = ledger.incomplete(unit.id for unit in left)
            left = [unit for unit in left if unit.id in missing]
            if left:
                logs.notice(f"readers of {len(left)} work units died; these units are read again")
    tally.readers, tally.detectors = filled.room(connect())
    return first


def _never_complete(units: list[WorkUnit]) -> UserError:
    return UserError(
        f"readers of {len(units)} work units died in each of {ATTEMPTS} attempts, the first one "
        f"at {units[0].objects[0].uri}; give readers more memory, then run the same command again"
    )


def _check_precision(output: str, plan: Plan, computed: str, table: str) -> None:
    """Raise `UserError` when the finished units have rows in another precision."""
    if not plan.done:
        return
    before = tables.read_metadata(output, min(plan.done), table).get("precision")
    if before in ("single", "half") and before != computed:
        raise UserError(
            f"{output} holds {table} in {before} precision, but this run would compute in "
            f"{computed} precision; use --precision {before}, or choose another output"
        )


@dataclass(frozen=True)
class _Written:
    """A unit that is written: scored images, (stage, reason) of the failures, seconds it took."""

    unit: str
    images: int
    failures: list[tuple[str, str]]
    seconds: float


def _commit(
    output: str, unit: str, rows: pa.Table, task: Task, metadata: dict[str, str]
) -> _Written:
    """Write a complete unit."""
    begin = time.monotonic()
    good = pc.equal(rows["stage"], "")
    made = rows.filter(good).select(task.schema.names).cast(task.schema)
    failures = tables.empty_failures().schema
    failed = rows.filter(pc.invert(good)).select(failures.names).cast(failures)
    tables.commit_unit(output, unit, made, failed, metadata, task.kind.table)
    reasons = zip(failed["stage"].to_pylist(), failed["reason"].to_pylist(), strict=True)
    return _Written(unit, made.num_rows, list(reasons), time.monotonic() - begin)


def _count(written: _Written, tally: Tally, monitor: ScoringMonitor, run: str, units: int) -> None:
    """Add a written unit to the counts, of `units` to write in all."""
    tally.units += 1
    tally.images += written.images
    tally.failures += len(written.failures)
    tally.spend("write", written.seconds, monitor)
    monitor.commit(written.images, written.failures, units - tally.units)
    if logs.wanted():
        counts = {"images": written.images, "failures": len(written.failures)}
        logs.log("unit committed", run=run, unit=written.unit, **counts)
