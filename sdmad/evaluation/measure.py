"""Evaluation of score tables against labels: the three protocols, for each seed and over seeds.

    test = load_scored_test("runs/scores", "labels.csv")
    metrics = measure(test)
    over_seeds(metrics)["anomaly detection", "auroc"].mean

Only images of the test split are used. Thresholds, signs and biases were chosen on the support
when the detector was fitted; evaluation changes none of them.
"""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.archive.naming import clean, comparable, split_frame
from sdmad.archive.units import WorkUnit
from sdmad.errors import UserError
from sdmad.evaluation import protocols, statistics
from sdmad.evaluation.protocols import Summary
from sdmad.evaluation.statistics import Judged
from sdmad.evaluation.unscored import check_scored, nothing_scored
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.inputs.matching import NameIndex, shown, told_apart
from sdmad.logs import Notice
from sdmad.method.threshold import FINDING_THRESHOLD
from sdmad.runtime.progress import step
from sdmad.scoring import tables
from sdmad.scoring.plan import open_plan
from sdmad.storage import parquet
from sdmad.words import counted

ENSEMBLE = "ensemble"
READERS = 16
HEADLINES = {
    ("anomaly detection", "auroc"): "AUROC",
    ("anomaly detection", "average_precision"): "average precision",
    ("category discrimination", "macro_normal"): "AUROC against normal",
    ("category discrimination", "macro_others"): "AUROC against other anomalies",
    ("multi-label prediction", "hamming_score"): "Hamming score",
    ("multi-label prediction", "one_minus_hamming_loss"): "1 - Hamming loss",
    ("multi-label prediction", "subset_accuracy"): "subset accuracy",
    ("multi-label prediction", "macro_f1"): "macro F1",
}
"""The headline metrics: (protocol, metric) to the name shown to readers."""


ANOMALY_SEEDS = "anomaly_seeds"


@dataclass(frozen=True)
class ScoredTest:
    """The scored images of the test split: N images, C categories, S seeds.

    `scores` (N, C) and `anomaly` (N,) belong to the ensemble, `seeds` (N, C, S) and `anomaly_seeds`
    (N, S) to each seed (S = 0 when the run was scored with
    `--no-per-seed`). `rows` is the score
    table in the same order. `missing` is the number of test images without a score, and `notices`
    say which these are.
    """

    name: str
    table: LabelTable
    scores: np.ndarray
    anomaly: np.ndarray
    seeds: np.ndarray
    anomaly_seeds: np.ndarray
    seed_names: list[str]
    rows: pa.Table
    missing: int
    metadata: dict[str, str]
    notices: list[Notice] = field(default_factory=list)

    @property
    def truth(self) -> np.ndarray:
        return self.table.labels

    @property
    def thresholds(self) -> np.ndarray:
        """The score (C,) above which each category is a finding: 0.5, or those of the decision file
        with which the tables were made."""
        given = self.metadata.get("thresholds")
        if given is None:
            return np.full(len(self.table.categories), FINDING_THRESHOLD, np.float32)
        return np.array(given.split(";"), np.float32)

    @property
    def decided(self) -> bool:
        """Whether findings are those of a decision file."""
        return "decision" in self.metadata

    @property
    def states_prevalence(self) -> bool:
        """Whether the scores are probabilities at a prevalence that was stated, by the fits or by a
        decision file, and not at one half."""
        return self.decided or "prevalence" in self.metadata

    @property
    def found(self) -> np.ndarray:
        """The findings (N, C) of the ensemble."""
        return self.scores > self.thresholds

    @property
    def no_deviation(self) -> str:
        """Why there is no deviation over seeds; empty if there is one."""
        if len(self.seed_names) < 2:
            return "its detector has one seed"
        if self.seeds.shape[2] == 0:
            return "it was scored with --no-per-seed, so the ensemble is all that is measured"
        return ""


def load_scored_test(run: str, labels_uri: str, details: bool = True) -> ScoredTest:
    """Join the scores of a run with the test rows of a label table.

    Without `details`, `rows` lacks the columns that no metric needs (findings, signs, spread).
    Raises `UserError` when the run or the labels are missing, when no test image of a category was
    scored, or when most test images are unknown to the run.
    """
    metadata, units = open_plan(run)
    labels = load_labels(labels_uri, metadata["categories"].split(";"), metadata["archive"])
    test = labels.where(labels.split == "test")
    if len(test) == 0:
        raise UserError(f"the label table {labels_uri} has no row whose split is 'test'")
    return join_scores(run, metadata, units, labels_uri, test, "test", details)


def join_scores(
    run: str,
    metadata: dict[str, str],
    units: Iterable[WorkUnit],
    labels_uri: str,
    test: LabelTable,
    split: str,
    details: bool = True,
) -> ScoredTest:
    """Like `load_scored_test`, for the rows `test` of a label table; `split` names them."""
    categories = test.categories
    position = NameIndex(zip(test.archive, test.member, strict=True))
    columns = None
    if not details:
        columns = ["archive", "member", "anomaly_score"]
        kinds = ("score", "seeds") if split == "test" else ("score", "logit", "seeds")
        columns += [f"{kind}_{c}" for c in categories for kind in kinds]
        columns.append(ANOMALY_SEEDS)
    held = _units_with(run, units, position)
    job = "evaluating" if split == "test" else "calibrating"
    step(job, f"reading {counted(len(held), 'score table')} of {run}")
    parts, owners = _read_rows(run, held, position, columns)
    if not parts:
        raise nothing_scored(run, labels_uri, test, held, split)
    mask = np.zeros(len(test), bool)
    mask[owners] = True
    order = np.argsort(owners, kind="stable")
    rows = tables.together(parts).take(pa.array(order))
    if f"seeds_{categories[0]}" in rows.column_names and ANOMALY_SEEDS not in rows.column_names:
        raise UserError(
            f"the score tables at {run} are of an older version of sdmad and have no column "
            f"{ANOMALY_SEEDS}; score the archive again into another output"
        )
    if mask.sum() < len(owners):
        raise _scored_twice(run, rows, np.array(owners)[order])
    return ScoredTest(
        name="/".join(run.rstrip("/").split("/")[-2:]),
        table=test.where(mask),
        scores=np.stack([rows[f"score_{c}"].to_numpy() for c in categories], axis=1),
        anomaly=rows["anomaly_score"].to_numpy(),
        seeds=np.stack([_each_seed(rows, f"seeds_{c}") for c in categories], axis=1),
        anomaly_seeds=_each_seed(rows, ANOMALY_SEEDS),
        seed_names=metadata["seeds"].split(";"),
        rows=rows,
        missing=len(test) - int(mask.sum()),
        metadata=metadata,
        notices=check_scored(run, labels_uri, test, mask, held, split),
    )


def _scored_twice(run: str, rows: pa.Table, owners: np.ndarray) -> UserError:
    """The exception if two of the rows belong to one labelled image; `owners` are in order."""
    first = int(np.flatnonzero(owners[1:] == owners[:-1])[0])
    names = rows.slice(first, 2).select(["archive", "member"]).to_pylist()
    one, other = sorted((name["archive"], name["member"]) for name in names)
    if one == other:
        return UserError(
            f"{run} has two scores for {shown(one)}; `sdmad verify` says "
            "whether the archive has two images of this name"
        )
    return UserError(
        f"{run} has scores for {told_apart(one, other)}, and both match one row of the label "
        "table; rename or remove one of the two in the archive, then score it again"
    )


def _units_with(run: str, units: Iterable[WorkUnit], position: NameIndex) -> list[str]:
    """The finished units that may hold labelled images."""
    shards = {archive for archive, _ in position.alike if archive}
    loose = {member for archive, member in position.alike if not archive}
    loose |= {split_frame(member)[0] for member in loose}
    done = tables.done_units(run)

    def may_hold(unit: WorkUnit) -> bool:
        stored = (clean(storage.relative(entry.uri, unit.base)) for entry in unit.objects)
        names = {comparable(name) for name in stored}
        return unit.id in done and not names.isdisjoint(loose if unit.kind == "objects" else shards)

    return [unit.id for unit in units if may_hold(unit)]


def _read_rows(
    run: str, units: list[str], position: NameIndex, columns: list[str] | None
) -> tuple[list[pa.Table], list[int]]:
    """The score rows of labelled images, and where these are in the label table.

    The tables of `units` are read, several at once.
    """

    def read(unit: str) -> tuple[pa.Table | None, list[int]]:
        with tables.readable(run, "scores", unit):
            content = tables.read_content(run, "scores", unit)
            names = parquet.decode(content, ("archive", "member"))
            pairs = zip(names["archive"].to_pylist(), names["member"].to_pylist(), strict=True)
            matched = [(k, position[name]) for k, name in enumerate(pairs) if name in position]
            if not matched:
                return None, []
            rows = parquet.decode(content, columns).take(pa.array([k for k, _ in matched]))
        return rows, [row for _, row in matched]

    parts, owners = [], []
    with ThreadPoolExecutor(READERS) as pool:
        for rows, found in pool.map(read, units):
            if rows is not None:
                parts.append(rows)
                owners += found
    return parts, owners


def _each_seed(rows: pa.Table, column: str) -> np.ndarray:
    """A column with a value of each seed, (N, S); S = 0 where the table lacks it."""
    if column not in rows.column_names:
        return np.zeros((rows.num_rows, 0), np.float32)
    values = rows[column].combine_chunks()
    return np.asarray(values.flatten().to_numpy().reshape(-1, values.type.list_size))


def measure(test: ScoredTest) -> pd.DataFrame:
    """All metrics of the three protocols: columns protocol, metric, category, seed, value.

    `seed` is the seed's number or "ensemble"; `category` is empty for metrics over all categories.
    """
    records = _metrics(test, test.scores, test.anomaly, ENSEMBLE)
    for k, seed in enumerate(test.seed_names[: test.seeds.shape[2]]):
        scores = test.seeds[:, :, k]
        records += _metrics(test, scores, test.anomaly_seeds[:, k], seed)
    return pd.DataFrame(records, columns=["protocol", "metric", "category", "seed", "value"])


def _metrics(
    test: ScoredTest, scores: np.ndarray, anomaly: np.ndarray, seed: str
) -> list[tuple[str, str, str, str, float]]:
    first = protocols.anomaly_detection(test.truth, anomaly)
    second = protocols.category_discrimination(test.truth, scores)
    third = protocols.multilabel_prediction(test.truth, scores, test.thresholds)
    records = [("anomaly detection", metric, "", seed, v) for metric, v in first.items()]
    for kind, values in second.items():
        macro = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        records.append(("category discrimination", f"macro_{kind}", "", seed, macro))
        for category, value in zip(test.table.categories, values, strict=True):
            records.append(("category discrimination", kind, category, seed, float(value)))
    records += [("multi-label prediction", metric, "", seed, v) for metric, v in third.items()]
    return records


def over_seeds(metrics: pd.DataFrame, category: str = "") -> dict[tuple[str, str], Summary]:
    """Mean, standard deviation and 95 % interval over seeds, by (protocol, metric).

    Takes the metrics of one category; by default those over all categories. Without scores for
    each seed, the only value is the ensemble's.
    """
    single = metrics[metrics.category == category]
    seeds = single[single.seed != ENSEMBLE]
    source = seeds if len(seeds) else single
    return {
        (str(key[0]), str(key[1])): protocols.summarise(values.value.to_numpy())
        for key, values in source.groupby(["protocol", "metric"], sort=False)
    }


def compare_runs(
    ours: pd.DataFrame, others: dict[str, pd.DataFrame]
) -> dict[str, dict[tuple[str, str], Judged]]:
    """Ours minus each other run, by the other's name and (protocol, metric).

    Compared are the metrics over all categories, paired by the seeds that both runs have. Verdicts
    are corrected for all metrics of all other runs.
    """
    keys = ["protocol", "metric", "category", "seed"]
    names, family = [], []
    for name, theirs in others.items():
        both = ours.merge(theirs, on=keys, suffixes=("", "_theirs"))
        both = both[(both.category == "") & (both.seed != ENSEMBLE)]
        difference = both.value - both.value_theirs
        for key, values in difference.groupby([both.protocol, both.metric], sort=False):
            names.append((name, (str(key[0]), str(key[1]))))
            family.append(statistics.over_seeds(values.to_numpy()))
    found: dict[str, dict[tuple[str, str], Judged]] = {name: {} for name in others}
    for (name, metric), judged in zip(names, statistics.judge(family), strict=True):
        found[name][metric] = judged
    return found


def write_metrics(metrics: pd.DataFrame, output: str) -> None:
    """Write all metrics, one row each, to `protocols.parquet`."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(metrics, preserve_index=False), sink)
    storage.write_bytes(storage.join(output, "protocols.parquet"), sink.getvalue())
