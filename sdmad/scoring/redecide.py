"""Use a decision file on the tables of a scoring run, without images and without a detector.

    apply_decision("s3://bucket/decision.json", "s3://bucket/scores", "s3://bucket/decided")

The result is a scoring run of its own: plan, scores, failures and `run.json`, with the same columns
and work units. Parts are read and written one by one, several at once; a part that is there is not
written again.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sdmad import storage
from sdmad.archive.units import WorkUnit
from sdmad.errors import UserError
from sdmad.scoring import tables
from sdmad.scoring.decisions import ReadDecision, apply_to_rows, read_decision
from sdmad.scoring.plan import encode_plan, open_plan, plan_uri
from sdmad.storage import run_record

JOB = "apply_decision"
THREADS = 8
UNITS_AT_ONCE = 1024


@dataclass
class Applied:
    """Counts of a run: units in the plan, and of those written, units, images and findings."""

    planned: int = 0
    units: int = 0
    images: int = 0
    findings_before: int = 0
    findings: int = 0
    skipped: int = 0
    waiting: int = 0


def apply_decision(decision_uri: str, scores: str, output: str) -> Applied:
    """Write the tables of `scores` with the decision's probabilities and findings to `output`.

    Finished parts are skipped, so the same command adds work units that were scored since. Raises
    `UserError` if the decision belongs to another detector, if the scores are already decided, or
    if `output` holds something else.
    """
    if output == scores:
        raise UserError(f"{output} holds the scores; choose another output")
    decision = read_decision(decision_uri)
    metadata, _ = open_plan(scores)
    check_undecided(metadata, scores)
    decision.check(
        metadata["detector"], metadata.get("detector_uri", ""), metadata["categories"].split(";")
    )
    identity = {"scores": scores, "decision": decision.digest}
    earlier = run_record.read_earlier(output, JOB)
    run_record.check_identity(output, identity, "tables")
    whole = metadata | decision.metadata | {"scores": scores}
    record: dict[str, Any] = {"job": JOB, "status": "running", "identity": identity, **whole}
    run_record.write_record(output, record)
    applied = _write_all(decision, scores, output, whole)
    record |= {
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "units_total": applied.planned,
        "units_skipped": applied.skipped,
        "units_not_scored": applied.waiting,
    }
    for name in ("images", "findings_before", "findings"):
        record[name] = earlier.get(name, 0) + getattr(applied, name)
    run_record.write_record(output, record)
    return applied


def check_undecided(metadata: dict[str, str], scores: str) -> None:
    """Raise `UserError` if the tables of a run were made with a decision file."""
    if "decision" in metadata:
        raise UserError(
            f"{scores} was already decided with {metadata.get('decision_uri', 'a decision file')}; "
            "give the scores as the detector made them"
        )


def _write_all(
    decision: ReadDecision, scores: str, output: str, metadata: dict[str, str]
) -> Applied:
    ready, done = tables.done_units(scores), tables.done_units(output)
    _, units = open_plan(scores)
    applied, planned = Applied(), list[WorkUnit]()

    def write(unit: str) -> tuple[int, int, int]:
        return _write(decision, scores, output, unit)

    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(units, UNITS_AT_ONCE)):
            planned += some
            todo = [unit.id for unit in some if unit.id in ready - done]
            applied.skipped += sum(unit.id in ready & done for unit in some)
            applied.waiting += sum(unit.id not in ready for unit in some)
            for images, before, after in pool.map(write, todo):
                applied.units += 1
                applied.images += images
                applied.findings_before += before
                applied.findings += after
    applied.planned = len(planned)
    storage.write_bytes(plan_uri(output), encode_plan(planned, metadata))
    tables.remove_units(output, done - {unit.id for unit in planned})
    return applied


def _write(decision: ReadDecision, scores: str, output: str, unit: str) -> tuple[int, int, int]:
    """Write one unit; returns its images, and its findings before and after."""
    rows = tables.read_part(scores, "scores", unit)
    failures = tables.read_part(scores, "failures", unit)
    names = decision.decision.categories
    try:
        decided = apply_to_rows(decision.decision, rows)
    except KeyError as error:
        raise UserError(
            f"the score tables at {scores} have no column {error}; score the archive again into "
            "another output"
        ) from None
    metadata = tables.metadata_of(rows.schema) | decision.metadata | {"scores": scores}
    tables.commit_unit(output, unit, decided, failures, metadata)
    before, after = (
        int(tables.finding_matrix(t["findings"], names).sum()) for t in (rows, decided)
    )
    return rows.num_rows, before, after
