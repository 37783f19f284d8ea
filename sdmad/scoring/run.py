"""A run on the driver: make the plan, stream the rows, write finished units, `run.json`.

What is made of the images is a `Task`: scores of images here, activations in `encode`, scores of
activations in `stored`. The driver holds only the rows of units in progress. Its cost grows with
the number of units.
"""

import secrets
import time
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
from sdmad.method.decision import Decision
from sdmad.runtime.cli import ending
from sdmad.runtime.cluster import Resources, connect
from sdmad.runtime.progress import Tracker
from sdmad.scoring import tables, writing
from sdmad.scoring.actor import DetectorActor
from sdmad.scoring.decisions import apply_to_rows, read_decision
from sdmad.scoring.ledger import Ledger
from sdmad.scoring.monitoring import ScoringMonitor
from sdmad.scoring.pipeline import Operators, stream_rows
from sdmad.scoring.plan import SCORING, Kind, Plan, Source, make_plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.status import JOB
from sdmad.scoring.tables import ScoreColumns
from sdmad.scoring.writing import UnitWriter
from sdmad.storage import run_record
from sdmad.storage.run_record import Heartbeat, now
from sdmad.words import counted

# How often a unit is begun whose readers die so that its rows do not fit together; from the second
# time on its images are decoded in quarantine.
ATTEMPTS = 5
VERBS = {tables.SCORES: "scoring", tables.ACTIVATIONS: "encoding"}
STAGES = ("list", "read", "decode", "model", "write")


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
    first: "_Moment | None" = None
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


@dataclass(frozen=True)
class Task:
    """What a run makes of the images of an archive.

    `kind` says which table is written, with rows of `schema` and with `metadata`. `operators` are
    those for a configuration that `fill` has filled. `job` is the name of the run in `run.json`,
    `source` takes the place of the archive, and `decision` changes findings and probabilities.
    """

    job: str
    archive: str
    kind: Kind
    schema: pa.Schema
    metadata: dict[str, str]
    operators: Callable[[PipelineConfig], Operators]
    source: Source | None = None
    fill: Callable[[PipelineConfig, Resources], PipelineConfig] = PipelineConfig.fill
    decision: Decision | None = None


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
    per_seed: bool = True,
    backbone: str | None = None,
    accept_changes: bool = False,
    prune: bool = False,
    decision_uri: str | None = None,
) -> Tally:
    """Score the unfinished work units of an archive and write `run.json`; URIs must be resolved.

    `accept_changes` and `prune` are those of `make_plan`; a decision file gives probabilities and
    findings. Raises `UserError` before any work starts when archive, detector and output do not
    match.
    """
    run_record.read_earlier(output, JOB)
    detector = Detector.load(detector_uri, device="cpu", backbone=backbone)
    made = described(archive, detector_uri, detector, per_seed, decision_uri)
    spec = detector.spec
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
                made.columns,
                filled.detector_threads,
                device,
                filled.precision,
                made.decision,
            ),
        )

    task = Task(
        JOB, archive, SCORING, made.columns.schema, made.metadata, operators, decision=made.decision
    )
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
    tally = Tally(skipped=len(plan.done))
    tally.seconds["list"] = time.monotonic() - clock
    planned = {
        "units_total": len(plan.units),
        "objects_gone": len(plan.changes.gone - plan.pruned),
        "changes": earlier.get("changes", []) + _changes(task.archive, run, plan, accept_changes),
    }
    if earlier and not plan.todo:
        # What the run that did the work has measured stays.
        rest = {"status": "finished", "finished": earlier.get("finished", now()), "checked": now()}
        earlier.pop("error", None)
        run_record.write_record(output, earlier | planned | rest)
        return tally
    before = _counted(earlier)
    record = {
        "job": task.job,
        "run": run,
        "status": "running",
        "started": started.isoformat(timespec="seconds"),
        **metadata,
        "units_skipped": len(plan.done),
        **planned,
    }
    begin = time.monotonic()

    def so_far() -> dict[str, Any]:
        return record | _measured(tally, begin, before)

    run_record.write_record(output, so_far())
    try:
        with Heartbeat(output, so_far):
            _stream(plan, task, config, output, tally, record)
        record["status"] = "finished"
    except BaseException as error:
        record |= ending(error)
        raise
    finally:
        run_record.write_record(output, so_far() | {"finished": now()})
    return tally


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
    return [{"run": run, "time": now(), **named}] if named else []


COUNTS = ("units", "images", "failures")


def _counted(earlier: dict[str, Any]) -> dict[str, int]:
    """What all runs before this one have counted; units whose run was killed may be missing."""
    if "all_runs" in earlier:
        return {name: int(earlier["all_runs"][name]) for name in COUNTS}
    if earlier.get("units_skipped"):
        return dict.fromkeys(COUNTS, 0)
    names = {"units": "units_scored", "images": "images", "failures": "failures"}
    return {name: int(earlier.get(key, 0)) for name, key in names.items()}


def _measured(tally: Tally, begin: float, before: dict[str, int]) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Described:
    """What a run writes of the scores of a detector: columns, metadata, and by which decision."""

    columns: ScoreColumns
    metadata: dict[str, str]
    decision: Decision | None


def described(
    archive: str, uri: str, detector: Detector, per_seed: bool, decision_uri: str | None
) -> Described:
    """The scores of images by a detector, read from `uri`.

    Raises `UserError` for a decision file that is not for this detector.
    """
    columns = ScoreColumns(detector.catalog.category_names, detector.num_seeds, per_seed)
    metadata = {
        "archive": archive,
        "source": "images",
        "detector": detector.digest,
        "detector_uri": uri,
        "backbone": f"{detector.provenance.backbone} {detector.backbone.fingerprint}",
        "input": detector.spec.to_json(),
        "catalog": detector.catalog.digest,
        "categories": ";".join(columns.categories),
        "seeds": ";".join(map(str, detector.seeds)),
        "per_seed": str(per_seed).lower(),
        "code_version": code_version(),
    }
    stated = detector.provenance.learner.stated(columns.categories)
    if stated is not None:
        metadata["prevalence"] = ";".join(f"{share:g}" for share in stated.categories.tolist())
    if not decision_uri:
        return Described(columns, metadata, None)
    read = read_decision(decision_uri)
    read.check(detector.digest, uri, columns.categories)
    return Described(columns, metadata | read.metadata, read.decision)


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
) -> None:
    """Run the pipeline and write finished units."""
    run = record["run"]
    if not plan.todo:
        return
    filled = task.fill(config, connect())
    record["pipeline"] = filled.model_dump()
    metadata = task.metadata | {"precision": filled.computed}
    _check_precision(output, plan, filled.computed, task.kind.table)
    operators = task.operators(filled)
    tally.readers, tally.detectors = filled.room(connect())
    left, attempts = plan.todo, 0
    ledger, monitor = Ledger(), ScoringMonitor(run)
    monitor.busy("list", tally.seconds["list"])
    begin = time.monotonic()

    def write(unit: str, rows: pa.Table) -> _Written:
        return _commit(output, unit, rows, task, metadata)

    def count(written: Iterable[_Written]) -> None:
        for unit in written:
            _count(unit, tally, monitor, run, len(plan.todo))
        rate = (tally.images + tally.failures) / (time.monotonic() - begin)
        failures = counted(tally.failures, "failure")
        note = f"{counted(tally.images, 'image')}, {failures}, {rate:.0f} images/s"
        tracker.update(tally.units, note)

    with Tracker(VERBS[task.kind.table], len(left), "units") as tracker:
        while left:
            if attempts == ATTEMPTS:
                raise _never_complete(left)
            writer = UnitWriter(write)
            try:
                with writer:
                    for batch in stream_rows(left, operators, filled, run, attempts > 0):
                        tally.first = tally.first or _Moment(time.monotonic(), time.process_time())
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
                why = "is read again because its reader died"
                if len(left) > 1:
                    why = "are read again because their readers died"
                logs.notice(f"{counted(len(left), 'work unit')} {why}")
    tally.readers, tally.detectors = filled.room(connect())


def _never_complete(units: list[WorkUnit]) -> UserError:
    return UserError(
        f"readers of {counted(len(units), 'work unit')} died in each of {ATTEMPTS} attempts, the "
        f"first one at {units[0].objects[0].uri}; give readers more memory, then run the same "
        "command again"
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
    if task.decision:
        made = apply_to_rows(task.decision, made)
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
    tally.commit = now()
    tally.spend("write", written.seconds, monitor)
    monitor.commit(written.images, written.failures, units - tally.units)
    if logs.wanted():
        counts = {"images": written.images, "failures": len(written.failures)}
        logs.log("unit committed", run=run, unit=written.unit, **counts)
