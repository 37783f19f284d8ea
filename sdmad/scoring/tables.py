"""The tables of a run: their columns, writing and reading.

`scores/part-<unit>.parquet` has one row for each scored image, `failures/part-<unit>.parquet` one
row for each image that could not be scored. Runs that encode have `activations/` in the place of
`scores/`. All files have the same types, and no value is null.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdmad import storage
from sdmad.archive import naming
from sdmad.archive.limits import DAMAGE, is_damage
from sdmad.errors import UserError
from sdmad.storage import parquet

if TYPE_CHECKING:
    from sdmad.scores import Scores

PREFIX = "sdmad."
"""Of all keys of metadata that sdmad writes."""
_SIGN = pa.struct([("category", pa.string()), ("sign", pa.string()), ("similarity", pa.float32())])
_EVIDENCE = pa.struct(
    [("category", pa.string()), ("sign_logit", pa.float32()), ("probe_logit", pa.float32())]
)
_PART = re.compile(r"part-([0-9a-f]{16})\.parquet$")

SCORES, ACTIVATIONS = "scores", "activations"
# Rows of activations in a row group: a reader of large units has this many in memory.
ROWS_TOGETHER = {ACTIVATIONS: 1024}
READERS = 8

FAILURES = pa.schema(
    [(name, pa.string()) for name in ("uri", "archive", "member", "stage", "reason")]
)


def _required(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(False) for field in schema])


@dataclass(frozen=True)
class ScoreColumns:
    """The columns of one run's score tables."""

    categories: list[str]
    num_seeds: int
    per_seed: bool

    @property
    def schema(self) -> pa.Schema:
        fields = [(name, pa.string()) for name in ("uri", "archive", "member")]
        fields += [(name, pa.float32()) for name in ("anomaly_score", "anomaly_logit")]
        for category in self.categories:
            kinds = ("score", "spread", "logit")
            fields += [(f"{kind}_{category}", pa.float32()) for kind in kinds]
        fields += [("findings", pa.list_(pa.string())), ("uncertain", pa.list_(pa.string()))]
        fields += [("signs", pa.list_(_SIGN)), ("evidence", pa.list_(_EVIDENCE))]
        if self.per_seed:
            values = pa.list_(pa.float32(), self.num_seeds)
            fields += [(f"seeds_{category}", values) for category in self.categories]
            fields.append(("anomaly_seeds", values))
        return _required(pa.schema(fields))


def part_name(unit: str) -> str:
    return f"part-{unit}.parquet"


def unit_of(uri: str) -> str | None:
    """The inverse of `part_name`: the unit of a table; None for other objects."""
    match = _PART.search(uri)
    return match[1] if match else None


def encode(table: pa.Table, metadata: dict[str, str], rows_together: int | None = None) -> bytes:
    """A Parquet file whose key-value metadata holds `metadata` under `sdmad.*`."""
    pairs = {f"{PREFIX}{key}".encode(): value.encode() for key, value in metadata.items()}
    return parquet.encode(table.replace_schema_metadata(pairs), rows_together)


def commit_unit(
    output: str,
    unit: str,
    rows: pa.Table,
    failures: pa.Table,
    metadata: dict[str, str],
    table: str = SCORES,
) -> None:
    """Write a complete unit: first failures, then `rows`, whose existence marks it finished."""
    failed = encode(failures, metadata)
    storage.write_bytes(storage.join(output, "failures", part_name(unit)), failed)
    made = encode(rows, metadata, ROWS_TOGETHER.get(table))
    storage.write_bytes(storage.join(output, table, part_name(unit)), made)


def done_units(output: str, table: str = SCORES) -> set[str]:
    """The units whose rows are written: one listing, no reads."""
    return _units_of(output, table)


def all_units(output: str, table: str = SCORES) -> set[str]:
    """The units that have a file, also those with failures alone, which are not finished."""
    return _units_of(output, table) | _units_of(output, "failures")


def _units_of(output: str, kind: str) -> set[str]:
    listing = storage.list_objects(storage.join(output, kind))
    return {unit for entry in listing if (unit := unit_of(entry.uri))}


def read_schema(output: str, unit: str, table: str = SCORES) -> pa.Schema:
    """The columns of a finished unit, and in their metadata how its rows were made."""
    with readable(output, table, unit):
        return parquet.read_schema(read_content(output, table, unit))


def metadata_of(schema: pa.Schema) -> dict[str, str]:
    """The metadata that sdmad has written into a table or a plan, without the prefix."""
    return {
        key.decode().removeprefix(PREFIX): value.decode()
        for key, value in (schema.metadata or {}).items()
        if key.decode().startswith(PREFIX)
    }


def read_part(output: str, kind: str, unit: str, columns: Iterable[str] | None = None) -> pa.Table:
    """The table of `kind` of a finished unit, or some of its columns.

    Raises `UserError` if it is missing or damaged.
    """
    with readable(output, kind, unit):
        return parquet.decode(read_content(output, kind, unit), columns)


@contextmanager
def readable(output: str, kind: str, unit: str) -> Iterator[None]:
    """A `UserError` if what is read within is missing or damaged: the table of `kind` of a unit."""
    try:
        yield
    except (OSError, *DAMAGE) as error:
        if not (is_damage(error) or isinstance(error, FileNotFoundError)):
            raise
        name = part_name(unit)
        raise UserError(
            f"{storage.join(output, kind, name)} is missing or damaged; remove every {name} under "
            f"{output} and run the command that wrote them again"
        ) from None


def read_parts(
    output: str, kind: str, units: Iterable[str], columns: Iterable[str] | None = None
) -> Iterator[pa.Table]:
    """The tables of finished units in their order; `READERS` of them are in memory at most."""
    wanted = None if columns is None else list(columns)
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[pa.Table]] = deque()
        try:
            for unit in units:
                waiting.append(pool.submit(read_part, output, kind, unit, wanted))
                if len(waiting) == READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def together(parts: Iterable[pa.Table]) -> pa.Table:
    """Tables as one; null where one lacks a column, because an older version wrote it."""
    return pa.concat_tables(parts, promote_options="default")


def read_content(output: str, kind: str, unit: str) -> bytes:
    """The table of a finished unit, still encoded."""
    return storage.read_bytes(storage.join(output, kind, part_name(unit)))


def copy_rows(output: str, unit: str, target: str, files: set[str], table: str = SCORES) -> None:
    """Write the rows of loose `files` of a finished unit as those of the unit `target`."""
    kept = []
    for kind in ("failures", table):
        rows = read_part(output, kind, unit)
        members = rows["member"].to_pylist()
        mask = [m in files or naming.split_frame(m)[0] in files for m in members]
        kept.append(rows.filter(pa.array(mask, pa.bool_())))
    for kind, rows in zip(("failures", table), kept, strict=True):
        uri = storage.join(output, kind, part_name(target))
        storage.write_bytes(uri, parquet.encode(rows, ROWS_TOGETHER.get(kind)))


def remove_units(output: str, units: Iterable[str], table: str = SCORES) -> None:
    """Remove the files of units: their rows first, without which a unit is not finished."""

    def remove(unit: str) -> None:
        for kind in (table, "failures"):
            storage.remove(storage.join(output, kind, part_name(unit)))

    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(remove, unit) for unit in units]:
            job.result()


def empty_failures() -> pa.Table:
    return _required(FAILURES).empty_table()


def _each_seed(values: np.ndarray) -> pa.Array:
    """Values (rows, S) as lists of S."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def score_rows(
    scores: "Scores | None", good: np.ndarray, count: int, columns: ScoreColumns
) -> pa.Table:
    """The score columns of `count` rows: `scores` at the positions `good`, zeros elsewhere."""

    def spread_out(values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        filled = np.zeros((count, *shape), np.float32)
        if values is not None:
            filled[good] = values
        return filled

    def lists(rows: list[Any] | None) -> list[Any]:
        filled: list[Any] = [[] for _ in range(count)]
        for position, row in zip(good, rows or [], strict=True):
            filled[position] = row
        return filled

    categories = len(columns.categories)
    anomaly = spread_out(scores.anomaly if scores else None, ())
    anomaly_logits = spread_out(scores.anomaly_logits if scores else None, ())
    mean = spread_out(scores.categories if scores else None, (categories,))
    spread = spread_out(scores.spread if scores else None, (categories,))
    logits = spread_out(scores.logits if scores else None, (categories,))
    data: dict[str, Any] = {"anomaly_score": anomaly, "anomaly_logit": anomaly_logits}
    for c, name in enumerate(columns.categories):
        data[f"score_{name}"] = mean[:, c]
        data[f"spread_{name}"] = spread[:, c]
        data[f"logit_{name}"] = logits[:, c]
    data["findings"] = lists(scores.findings if scores else None)
    data["uncertain"] = lists(scores.uncertain if scores else None)
    signs = [[vars(e) for e in row] for row in scores.signs] if scores else None
    data["signs"] = lists(signs)
    evidence = [[vars(e) for e in row] for row in scores.evidence] if scores else None
    data["evidence"] = lists(evidence)
    if columns.per_seed:
        seeds = spread_out(scores.seeds if scores else None, (categories, columns.num_seeds))
        for c, name in enumerate(columns.categories):
            data[f"seeds_{name}"] = _each_seed(seeds[:, c])
        anomaly_seeds = spread_out(scores.anomaly_seeds if scores else None, (columns.num_seeds,))
        data["anomaly_seeds"] = _each_seed(anomaly_seeds)
    wanted = columns.schema
    fields = [wanted.field(name) for name in data]
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value, field.type)
        for value, field in zip(data.values(), fields, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def finding_matrix(column: pa.ChunkedArray, categories: Sequence[str]) -> np.ndarray:
    """The column `findings` or `uncertain` as bool (N, C)."""
    lists = column.combine_chunks()
    found = np.zeros((len(lists), len(categories)), bool)
    rows = pc.list_parent_indices(lists).to_numpy()
    named = pc.index_in(pc.list_flatten(lists), pa.array(categories, pa.string()))
    found[rows, named.to_numpy()] = True
    return found
