"""A run on the driver: make the plan, stream the rows, write finished units, `run.json`.

What is made of the images is a `Task`: scores in `images`, activations in `encode`, scores of
activations in `stored`. The driver holds only the rows of units in progress. Its cost grows with
the number of units.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sdmad import logs, storage
from sdmad.archive.units import WorkUnit
from sdmad.errors import UserError
from sdmad.method.decision import Decision
from sdmad.runtime.cli import ending
from sdmad.runtime.cluster import Resources, connect
from sdmad.runtime.progress import STARTING, Tracker
from sdmad.scoring import tables
from sdmad.scoring.decisions import apply_to_rows
from sdmad.scoring.ledger import Ledger
from sdmad.scoring.monitoring import ScoringMonitor
from sdmad.scoring.pipeline import Operators, stream_rows
from sdmad.scoring.plan import Kind, Plan, Source, make_plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.tally import Moment, Tally, counted_before, measured
from sdmad.scoring.writing import UnitWriter
from sdmad.storage import run_record
from sdmad.storage.run_record import Heartbeat, now
from sdmad.words import counted

# How often a unit is begun whose readers die so that its rows do not fit together; from the second
# time on its images are decoded in quarantine.
ATTEMPTS = 5
VERBS = {tables.SCORES: "scoring", tables.ACTIVATIONS: "encoding"}


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
    before = counted_before(earlier)
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
        return record | measured(tally, begin, before)

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
    columns = task.schema
    if plan.done:
        before = tables.read_schema(output, min(plan.done), task.kind.table)
        _check_precision(output, before, filled.computed, task.kind.table)
        columns = _columns_as_before(output, before, task)
    operators = task.operators(filled)
    tally.readers, tally.detectors = filled.room(connect())
    left, attempts = plan.todo, 0
    ledger, monitor = Ledger(), ScoringMonitor(run)
    monitor.busy("list", tally.seconds["list"])
    begin = time.monotonic()

    def write(unit: str, rows: pa.Table) -> _Written:
        return _commit(output, unit, rows, task, columns, metadata)

    def count(written: Iterable[_Written]) -> None:
        for unit in written:
            _count(unit, tally, monitor, run, len(plan.todo))
        tracker.update(tally.units, progress_note(tally, time.monotonic() - begin))

    with Tracker(VERBS[task.kind.table], len(left), "units", STARTING) as tracker:
        while left:
            if attempts == ATTEMPTS:
                raise _never_complete(left)
            writer = UnitWriter(write)
            try:
                with writer:
                    for batch in stream_rows(left, operators, filled, run, attempts > 0):
                        tally.first = tally.first or Moment(time.monotonic(), time.process_time())
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


def progress_note(tally: Tally, seconds: float) -> str:
    """What is done after `seconds`, for the progress line; empty until a model has had images."""
    if not tally.units:
        return "images arrive, the first work unit is not complete yet" if tally.first else ""
    rate = (tally.images + tally.failures) / seconds
    failures = counted(tally.failures, "failure")
    return f"{counted(tally.images, 'image')}, {failures}, {rate:,.0f} images/s"


def _never_complete(units: list[WorkUnit]) -> UserError:
    return UserError(
        f"readers of {counted(len(units), 'work unit')} died in each of {ATTEMPTS} attempts, the "
        f"first one at {units[0].objects[0].uri}; give readers more memory, then run the same "
        "command again"
    )


def _check_precision(output: str, before: pa.Schema, computed: str, table: str) -> None:
    """Raise `UserError` when the finished units have rows in another precision."""
    precision = tables.metadata_of(before).get("precision")
    if precision in ("single", "half") and precision != computed:
        raise UserError(
            f"{output} holds {table} in {precision} precision, but this run would compute in "
            f"{computed} precision; use --precision {precision}, or choose another output"
        )


def _columns_as_before(output: str, before: pa.Schema, task: Task) -> pa.Schema:
    """The columns of the task, as far as finished units have them: all units have the same.

    Raises `UserError` when they have a column that this version does not write.
    """
    unknown = [name for name in before.names if name not in task.schema.names]
    if unknown:
        raise UserError(
            f"{output} holds {task.kind.table} of another version of sdmad, with a column "
            f"{unknown[0]!r} that this version does not write; choose another output"
        )
    lacking = [name for name in task.schema.names if name not in before.names]
    if lacking:
        logs.notice(
            f"{output} was begun by an older version of sdmad, without "
            f"{counted(len(lacking), 'column')} ({', '.join(lacking)}); its tables stay alike, so "
            "new ones are written without"
        )
    return pa.schema([field for field in task.schema if field.name not in lacking])


@dataclass(frozen=True)
class _Written:
    """A unit that is written: scored images, (stage, reason) of the failures, seconds it took."""

    unit: str
    images: int
    failures: list[tuple[str, str]]
    seconds: float


def _commit(
    output: str,
    unit: str,
    rows: pa.Table,
    task: Task,
    columns: pa.Schema,
    metadata: dict[str, str],
) -> _Written:
    """Write a complete unit."""
    begin = time.monotonic()
    failures = tables.empty_failures().schema
    good = pc.equal(rows["stage"], "")
    failed = rows.select(failures.names).filter(pc.invert(good)).cast(failures)
    made = rows.select(columns.names)
    if failed.num_rows:
        made = made.filter(good)
    made = made.cast(columns)
    if task.decision:
        made = apply_to_rows(task.decision, made)
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
