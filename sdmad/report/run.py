"""A whole evaluation: read scores and labels, compute the metrics, write tables and report."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa

from sdmad import storage
from sdmad.errors import UserError
from sdmad.evaluation.audit import write_audit
from sdmad.evaluation.measure import (
    HEADLINES,
    ScoredTest,
    load_scored_test,
    measure,
    over_seeds,
    write_metrics,
)
from sdmad.report.inspection import inspect
from sdmad.report.page import write_report
from sdmad.storage import parquet, run_record


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation: metrics of the run and of the baselines, URI of the report.

    `notices` are sentences about test images without a score, `reasons` about runs without a
    deviation over seeds.
    """

    test: ScoredTest
    metrics: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    report: str
    notices: list[str]
    reasons: list[str]


def evaluate_run(scores: str, labels: str, output: str, baselines: dict[str, str]) -> Evaluated:
    """Evaluate the scoring run at `scores`; `baselines` are URIs of other scoring runs by name.

    Writes `report.html`, `protocols.parquet` and `run.json` under `output`, and the sign audit
    (`audit_*.parquet`) when the run's detector can be loaded, and `masks.parquet` when the labels
    have masks. Raises `UserError` when `output` is
    one of the runs, or when a run or the labels are missing or do not match.
    """
    if output in (scores, *baselines.values()):
        raise UserError(f"{output} holds the scores; choose another output for the evaluation")
    run_record.read_earlier(output, "evaluate")
    test = load_scored_test(scores, labels)
    metrics = measure(test)
    notices, others = list(test.notices), {}
    no_deviation = {"this run": test.no_deviation}
    for name, uri in baselines.items():
        theirs = load_scored_test(uri, labels, details=False)
        others[name] = measure(theirs)
        no_deviation[f"baseline {name}"] = theirs.no_deviation
        notices += [f"baseline {name}: {notice}" for notice in theirs.notices]
    write_metrics(metrics, output)
    inspection = inspect(test)
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
    report = write_report(test, metrics, output, others, inspection, reasons)
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
    run_record.write_record(output, record)
    return Evaluated(test, metrics, others, report, notices, reasons)


def parse_baselines(texts: list[str]) -> dict[str, str]:
    """The URIs of `name=URI` entries by name; `UserError` for any other form."""
    found = {}
    for text in texts:
        name, mark, uri = text.partition("=")
        if not (name and mark and uri):
            raise UserError(f"baseline {text!r} does not have the form name=URI")
        found[name] = storage.resolve(uri)
    return found
