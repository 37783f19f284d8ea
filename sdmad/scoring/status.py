"""How far a scoring run is, from any machine: from listings, `run.json` and a few small tables.

    for line in lines(read_status("s3://bucket/scores")):
        print(line)

Every finished unit has a table of failures, mostly an empty one. The sizes in the listing tell
which are not empty.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.scoring import tables
from sdmad.scoring.reasons import kind_of
from sdmad.storage import StoredObject, parquet, run_record
from sdmad.words import counted, duration

JOB = "score_archive"
# Tables of failures that are read at most, the largest first.
MOST_TABLES = 200
# Score tables whose rows are counted where no run has counted its images.
SAMPLE = 16
EXAMPLES, KINDS_SHOWN = 3, 8
TABLES = ("scores", "failures")
READERS = 16


@dataclass(frozen=True)
class Example:
    """A failure: its shard (empty for a loose object), and its row in a table, from 1."""

    shard: str
    table: str
    row: int
    uri: str


@dataclass
class Kind:
    """Failures of one stage and kind of reason, with some examples."""

    stage: str
    reason: str
    images: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Failures:
    """The failures in the tables that were read, of all tables that have any."""

    kinds: list[Kind]
    tables_read: int
    tables: int

    @property
    def images(self) -> int:
        return sum(kind.images for kind in self.kinds)


@dataclass(frozen=True)
class ScoringStatus:
    """The state of a scoring run.

    `state` is that of `run_record.state`. `images` and `failed` count all runs with this output;
    unless `exact`, they are estimates from those units that were counted. Rates are images a
    second. None stands for what is not known.
    """

    output: str
    state: str
    archive: str
    run: str
    updated_seconds_ago: float | None
    commit_seconds_ago: float | None
    units_total: int
    units_done: int
    images: int | None
    failed: int | None
    exact: bool
    images_per_second: float | None
    seconds_left: float | None
    bottleneck: str | None
    bottleneck_because: str | None
    failures: Failures

    @property
    def units_left(self) -> int:
        return max(0, self.units_total - self.units_done)


def read_status(output: str) -> ScoringStatus:
    """The state of the scoring run at `output`. Raises `UserError` if there is none."""
    record = run_record.read_record(output)
    with ThreadPoolExecutor(2) as pool:
        scores, failures = pool.map(lambda kind: _parts(output, kind), TABLES)
    failed = {unit: entry for unit, entry in failures.items() if unit in scores}
    done, total = len(scores), int(record.get("units_total", 0))
    images, lost, exact = _images(output, record, sorted(scores))
    state = run_record.state(record)
    return ScoringStatus(
        output=output,
        state=state,
        archive=str(record.get("archive", "")),
        run=str(record.get("run", "")),
        updated_seconds_ago=run_record.age(record, "updated"),
        commit_seconds_ago=run_record.age(record, "last_commit"),
        units_total=total,
        units_done=done,
        images=images,
        failed=lost,
        exact=exact,
        images_per_second=record.get("images_per_second"),
        seconds_left=_seconds_left(record, total - done) if state == "working" else None,
        bottleneck=record.get("bottleneck"),
        bottleneck_because=record.get("bottleneck_because"),
        failures=_failures(list(failed.values())),
    )


def _parts(output: str, kind: str) -> dict[str, StoredObject]:
    """The tables of a kind, by unit."""
    listing = storage.list_objects(storage.join(output, kind))
    return {unit: entry for entry in listing if (unit := tables.unit_of(entry.uri))}


def _images(
    output: str, record: dict[str, Any], units: list[str]
) -> tuple[int | None, int | None, bool]:
    """The images with scores and those without in the tables of `units`, and whether exact."""
    counts = record.get("all_runs") or {}
    counted_units = counts.get("units", 0)
    if counted_units:
        share = len(units) / counted_units
        return round(counts["images"] * share), round(counts["failures"] * share), share == 1
    if not units:
        return 0, 0, True
    some = units[:: -(-len(units) // SAMPLE)]
    rows = {kind: sum(_rows(output, kind, unit) for unit in some) for kind in TABLES}
    share = len(units) / len(some)
    return round(rows["scores"] * share), round(rows["failures"] * share), share == 1


def _rows(output: str, kind: str, unit: str) -> int:
    content = tables.read_content(output, kind, unit)
    return int(pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows)


def _seconds_left(record: dict[str, Any], units: int) -> float | None:
    """By the pace of this run since its first scores."""
    done, first = record.get("units_scored", 0), record.get("seconds_to_first_scores")
    if not done or first is None:
        return None
    return max(0, units) * max(0.0, record["seconds"] - first) / done


def _failures(entries: list[StoredObject]) -> Failures:
    """The failures in the largest tables, `MOST_TABLES` at most."""
    entries = sorted(entries, key=lambda entry: (-entry.size, entry.uri))
    if entries and not _read(entries[-1]).num_rows:
        smallest = entries[-1].size
        entries = [entry for entry in entries if entry.size > smallest]
    kinds: dict[tuple[str, str], Kind] = {}
    chosen = entries[:MOST_TABLES]
    with ThreadPoolExecutor(READERS) as pool:
        for entry, table in zip(chosen, pool.map(_read, chosen), strict=True):
            _count(kinds, storage.name(entry.uri), table.to_pylist())
    found = sorted(kinds.values(), key=lambda kind: (-kind.images, kind.stage, kind.reason))
    return Failures(found, len(chosen), len(entries))


def _read(entry: StoredObject) -> pa.Table:
    return parquet.decode(storage.read_bytes(entry.uri))


def _count(kinds: dict[tuple[str, str], Kind], table: str, rows: list[dict[str, str]]) -> None:
    for number, row in enumerate(rows, 1):
        key = row["stage"], kind_of(row["reason"])
        kind = kinds.setdefault(key, Kind(*key))
        kind.images += 1
        if len(kind.examples) < EXAMPLES:
            kind.examples.append(Example(row["archive"], table, number, row["uri"]))


def lines(status: ScoringStatus, names: bool = False) -> Iterator[str]:
    """The state in words, on one screen. Images are named only if `names` is set."""
    yield f"scoring {status.archive} to {status.output}"
    yield f"state       {run_record.STATES.get(status.state, status.state)}{_ages(status)}"
    yield f"done        {_done(status)}"
    yield f"rate        {_rate(status)}"
    if status.bottleneck:
        yield f"bottleneck  {status.bottleneck}; {status.bottleneck_because or 'not explained'}"
    yield from _failure_lines(status, names)


def _ages(status: ScoringStatus) -> str:
    if status.state not in ("working", "silent"):
        return ""
    updated, commit = status.updated_seconds_ago, status.commit_seconds_ago
    heard = "" if updated is None else f", last sign of life {duration(updated)} ago"
    written = "no unit written yet" if commit is None else f"last unit {duration(commit)} ago"
    return f"{heard}, {written}"


def _done(status: ScoringStatus) -> str:
    share = status.units_done / status.units_total if status.units_total else 0.0
    text = f"{status.units_done:,} of {counted(status.units_total, 'work unit')} ({share:.0%})"
    if status.units_done > status.units_total:
        text += "; tables of units that are in no plan count too"
    if status.images is None or status.failed is None:
        return text
    about = "" if status.exact else "about "
    failures = counted(status.failed, "failure")
    return f"{text}, {about}{counted(status.images, 'image')} with scores, {failures}"


def _rate(status: ScoringStatus) -> str:
    rate = status.images_per_second
    text = f"{rate:,.1f} images/s with the start-up of this run" if rate else "not known yet"
    if status.state != "working":
        return text
    left = status.seconds_left
    return f"{text}, {'time left not known' if left is None else f'about {duration(left)} left'}"


def _failure_lines(status: ScoringStatus, names: bool) -> Iterator[str]:
    found = status.failures
    if not found.tables:
        yield "failures    none"
        return
    yield f"failures    {found.images:,} in {counted(found.tables_read, 'table')} of failures" + (
        f", the largest of {found.tables:,}; the others were not read"
        if found.tables > found.tables_read
        else ""
    )
    for kind in found.kinds[:KINDS_SHOWN]:
        yield f"  {kind.images:>8,}  {kind.stage}: {kind.reason}"
        for example in kind.examples:
            shard = example.shard or "a loose object"
            where = f"{shard}, row {example.row} of failures/{example.table}"
            yield f"            {where}{f', {example.uri}' if names else ''}"
    if len(found.kinds) > KINDS_SHOWN:
        yield f"  and {len(found.kinds) - KINDS_SHOWN} more kinds; --json lists them"
