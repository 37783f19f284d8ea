"""An evaluation from start to end: read scores and labels, measure, write metrics and report."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

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
from sdmad.storage import run_record


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found, and where its report is."""

    test: ScoredTest
    metrics: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    report: str


def evaluate_run(scores: str, labels: str, output: str, baselines: dict[str, str]) -> Evaluated:
    """Evaluate the scoring run at `scores`; `baselines` are further runs by name.

    Writes `report.html`, `protocols.parquet` and `run.json` under `output`, and the tables of the
    sign audit, `audit_*.parquet`, where the run's detector can be loaded. Raises `UserError` when
    runs and labels do not fit.
    """
    if output in (scores, *baselines.values()):
        raise UserError(f"{output} holds scores; choose another output for the evaluation")
    test = load_scored_test(scores, labels)
    metrics = measure(test)
    others = {name: measure(load_scored_test(uri, labels)) for name, uri in baselines.items()}
    write_metrics(metrics, output)
    inspection = inspect(test)
    if inspection.audit:
        write_audit(inspection.audit, output)
    report = write_report(test, metrics, output, others, inspection)
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
    return Evaluated(test, metrics, others, report)


def parse_baselines(texts: list[str]) -> dict[str, str]:
    """`name=URI` entries by name; `UserError` for anything else."""
    found = {}
    for text in texts:
        name, mark, uri = text.partition("=")
        if not (name and mark and uri):
            raise UserError(f"baseline {text!r} is not of the form name=URI")
        found[name] = storage.resolve(uri)
    return found
