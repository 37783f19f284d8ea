"""A whole evaluation: read scores and labels, compute the metrics, write tables and report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa

from sdmad import storage
from sdmad.errors import UserError
from sdmad.evaluation.audit import write_audit
from sdmad.evaluation.by_group import Grouped, measure_groups, write_group_metrics
from sdmad.evaluation.measure import (
    HEADLINES,
    ScoredTest,
    load_scored_test,
    measure,
    over_seeds,
    write_metrics,
)
from sdmad.logs import Notice
from sdmad.report.inspection import inspect
from sdmad.report.page import write_report
from sdmad.runtime.progress import step
from sdmad.scoring.groups.pooling import Pooling
from sdmad.storage import parquet, run_record
from sdmad.words import counted


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation: metrics of the run and of the baselines, URI of the report.

    `notices` are sentences about test images without a score, `grouped` has the metrics by group,
    `reasons` say which runs have no deviation over seeds.
    """

    test: ScoredTest
    metrics: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    report: str
    notices: list[Notice]
    grouped: Grouped | None = None
    reasons: Sequence[str] = ()


def evaluate_run(
    scores: str,
    labels: str,
    output: str,
    baselines: dict[str, str],
    by: str | None = None,
    pooling: Pooling | None = None,
) -> Evaluated:
    """Evaluate the scoring run at `scores`; `baselines` are URIs of other scoring runs by name.

    With `by`, a column of the label table, also on the level of its groups, whose scores are made
    from those of their images by `pooling` (`protocols_by_group.parquet`).

    Writes `report.html`, `protocols.parquet` and `run.json` under `output`, and the sign audit
    (`audit_*.parquet`) when the run's detector can be loaded, and `masks.parquet` when the labels
    have masks. Raises `UserError` when `output` is
    one of the runs, or when a run or the labels are missing or do not match.
    """
    if output in (scores, *baselines.values()):
        raise UserError(f"{output} holds the scores; choose another output for the evaluation")
    run_record.read_earlier(output, "evaluate")
    test = load_scored_test(scores, labels)
    step("evaluating", f"computing the metrics of {counted(len(test.table), 'test image')}")
    metrics = measure(test)
    grouped = measure_groups(test, labels, by, pooling or Pooling()) if by else None
    notices, others = [*test.notices, *(grouped.test.notices if grouped else [])], {}
    no_deviation = {"this run": test.no_deviation}
    for name, uri in baselines.items():
        theirs = load_scored_test(uri, labels, details=False)
        others[name] = measure(theirs)
        no_deviation[f"baseline {name}"] = theirs.no_deviation
        notices += [notice.after(f"baseline {name}: ") for notice in theirs.notices]
    write_metrics(metrics, output)
    if grouped:
        write_group_metrics(grouped, output)
    step("evaluating", "loading the detector to audit signs and to draw maps of examples")
    inspection = inspect(test)
    step("evaluating", "writing the report")
    if inspection.audit:
        write_audit(inspection.audit, output)
    if inspection.masks:
        table = pa.Table.from_pandas(inspection.masks.table, preserve_index=False)
        storage.write_bytes(storage.join(output, "masks.parquet"), parquet.encode(table))
    reasons = [
        f"{run} has no deviation over seeds (± -): {why}"
        for run, why in no_deviation.items()
        if why
    ]
    sources = {"scores": scores, "label table": f"{labels} ({test.table.digest} of its test rows)"}
    report = write_report(test, metrics, output, others, inspection, grouped, reasons, sources)
    summary = over_seeds(metrics)
    record = {
        "job": "evaluate",
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": scores,
        "labels": labels,
        "test_images": len(test.table),
        "test_images_without_score": test.missing,
        "metrics": {
            f"{protocol}: {name}": {
                key: value if math.isfinite(value) else None
                for key, value in vars(summary[protocol, metric]).items()
            }
            for (protocol, metric), name in HEADLINES.items()
        },
    }
    if grouped:
        record["groups"] = grouped.record()
    run_record.write_record(output, record)
    return Evaluated(test, metrics, others, report, notices, grouped, reasons)


def parse_baselines(texts: list[str]) -> dict[str, str]:
    """The URIs of `name=URI` entries by name; `UserError` for any other form."""
    found = {}
    for text in texts:
        name, mark, uri = text.partition("=")
        if not (name and mark and uri):
            raise UserError(f"baseline {text!r} does not have the form name=URI")
        found[name] = storage.resolve(uri)
    return found
