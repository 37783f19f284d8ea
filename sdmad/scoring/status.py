"""How far a run over an archive (score or encode) is, from any machine.

From listings, `run.json` and a few small tables:

    for line in lines(read_status("s3://bucket/scores")):
        print(line)

Every finished unit has a table of failures, mostly an empty one. Sizes in the listing, and a few
tables of each of the smallest sizes, tell which are likely to be empty.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.scoring import tables
from sdmad.scoring.plan import planned_ids
from sdmad.scoring.reasons import kind_of
from sdmad.storage import StoredObject, parquet, run_record
from sdmad.words import counted, duration

JOB = "score_archive"
ENCODE_JOB = "encode_archive"
# Tables of failures that are read for their rows, the largest first.
MOST_TABLES = 200
# Where there are more: how many of the smallest sizes are sampled, and how many tables of each.
# Empty tables differ in size, because their metadata do.
MOST_SIZES, TABLES_OF_SIZE = 32, 3
# Score tables whose rows are counted where no run has counted its images.
SAMPLE = 16
EXAMPLES, KINDS_SHOWN = 3, 8
# The table that a job writes for each unit, besides its failures.
TABLE = {JOB: tables.SCORES, ENCODE_JOB: tables.ACTIVATIONS}
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
    """The failures in the tables that were read, of all tables that have any.

    `tables_read` counts those with failures. Above `MOST_TABLES`, `tables` is an estimate by size.
    """

    kinds: list[Kind]
    tables_read: int
    tables: int

    @property
    def images(self) -> int:
        return sum(kind.images for kind in self.kinds)


@dataclass(frozen=True)
class ScoringStatus:
    """The state of a run; `table` is what it writes, scores or activations.

    `state` is that of `run_record.state`, `error` the sentence with which a failed run has ended.
    Units that are in no plan do not count. `images` and `failed` count all runs with this output;
    unless `exact`, they are estimates from those units that were counted. Rates are images a
    second. None stands for what is not known.
    """

    output: str
    state: str
    error: str | None
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
    table: str = tables.SCORES

    @property
    def units_left(self) -> int:
        return max(0, self.units_total - self.units_done)


def read_status(output: str) -> ScoringStatus:
    """The state of the scoring or encoding run at `output`. Raises `UserError` if there is none."""
    record = run_record.read_record(output)
    table = TABLE.get(str(record.get("job")), tables.SCORES)
    with ThreadPoolExecutor(2) as pool:
        written, failures = pool.map(lambda kind: _parts(output, kind), (table, "failures"))
    finished = sorted(unit for unit in planned_ids(output, table) if unit in written)
    failed = [failures[unit] for unit in finished if unit in failures]
    done, total = len(finished), int(record.get("units_total", 0))
    images, lost, exact = _images(output, record, finished, table)
    state = run_record.state(record)
    return ScoringStatus(
        output=output,
        state=state,
        error=record.get("error"),
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
        failures=_failures(failed),
        table=table,
    )


def _parts(output: str, kind: str) -> dict[str, StoredObject]:
    """The tables of a kind, by unit."""
    listing = storage.list_objects(storage.join(output, kind))
    return {unit: entry for entry in listing if (unit := tables.unit_of(entry.uri))}


def _images(
    output: str, record: dict[str, Any], units: list[str], table: str
) -> tuple[int | None, int | None, bool]:
    """The images in the tables of `units` and in their failures, and whether exact."""
    counts = record.get("all_runs") or {}
    counted_units = counts.get("units", 0)
    if counted_units:
        share = len(units) / counted_units
        return round(counts["images"] * share), round(counts["failures"] * share), share == 1
    if not units:
        return 0, 0, True
    some = units[:: -(-len(units) // SAMPLE)]
    rows = [sum(_rows(output, kind, unit) for unit in some) for kind in (table, "failures")]
    share = len(units) / len(some)
    return round(rows[0] * share), round(rows[1] * share), share == 1


def _rows(output: str, kind: str, unit: str) -> int:
    with tables.readable(output, kind, unit):
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
    kinds: dict[tuple[str, str], Kind] = {}
    with ThreadPoolExecutor(READERS) as pool:
        empty = _empty_sizes(entries, pool) if len(entries) > MOST_TABLES else set()
        likely = [entry for entry in entries if entry.size not in empty]
        rest = [entry for entry in entries if entry.size in empty]
        chosen = (likely + rest)[:MOST_TABLES]
        read = 0
        for entry, table in zip(chosen, pool.map(_read, chosen), strict=True):
            read += table.num_rows > 0
            _count(kinds, storage.name(entry.uri), table.to_pylist())
    found = sorted(kinds.values(), key=lambda kind: (-kind.images, kind.stage, kind.reason))
    return Failures(found, read, read + max(0, len(likely) - MOST_TABLES))


def _empty_sizes(entries: list[StoredObject], pool: ThreadPoolExecutor) -> set[int]:
    """The sizes of which all sampled tables are empty; `entries` begin with the largest."""
    sizes: dict[int, list[StoredObject]] = {}
    for entry in reversed(entries):
        sizes.setdefault(entry.size, []).append(entry)
    some = [e for size in list(sizes)[:MOST_SIZES] for e in sizes[size][:TABLES_OF_SIZE]]
    filled = {e.size for e, table in zip(some, pool.map(_read, some), strict=True) if len(table)}
    return {entry.size for entry in some} - filled


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
    doing = "scoring" if status.table == tables.SCORES else "encoding"
    yield f"{doing} {status.archive} to {status.output}"
    yield f"state       {run_record.in_words(status.state, status.error)}{_ages(status)}"
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
    if status.images is None or status.failed is None:
        return text
    about = "" if status.exact else "about "
    failures = counted(status.failed, "failure")
    made = "with scores" if status.table == tables.SCORES else "encoded"
    return f"{text}, {about}{counted(status.images, 'image')} {made}, {failures}"


def _rate(status: ScoringStatus) -> str:
    rate = status.images_per_second
    text = f"{rate:,.1f} images/s, including start-up" if rate else "not known yet"
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
