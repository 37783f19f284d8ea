"""Decision files: what `sdmad calibrate` writes, and their use on score tables.

file = read_decision("s3://bucket/decision.json")
file.check(metadata, scores)
table = apply_to_rows(file.decision, table)
"""

import hashlib
import json
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from sdmad import storage
from sdmad.errors import UserError
from sdmad.method.decision import Decision
from sdmad.scoring import tables

FORMAT: Literal[1] = 1
KIND: Literal["sdmad decision"] = "sdmad decision"


class Rate(BaseModel):
    """A value with its 95 % interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: float
    low: float
    high: float


class CategoryDecision(BaseModel):
    """The decision on one category, and what it rests on.

    `threshold` is on the calibrated probability. Rates are those at the threshold.
    `findings_a_thousand` is the number of findings among 1000 images at `prevalence`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    threshold: float
    threshold_interval: tuple[float, float]
    slope: float
    slope_interval: tuple[float, float]
    intercept: float
    prevalence: float
    prevalence_of: Literal["user", "split"]
    images_with: int
    images_without: int
    patients_with: int
    patients_without: int
    auroc: float
    sensitivity: Rate
    specificity: Rate
    findings_a_thousand: Rate


class DecisionFile(BaseModel):
    """A decision file.

    `by_category` has None for a category that stays as it was scored. `left_out` counts images that
    were not used, by reason. `bootstrap` is the number of replicates, over patients.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["sdmad decision"] = KIND
    format: Literal[1] = FORMAT
    code_version: str
    made: str
    detector: str
    detector_uri: str
    backbone: str
    catalog: str
    categories: list[str]
    scores: str
    labels: str
    split: str
    images: int
    patients: int
    left_out: dict[str, int]
    target: dict[str, float]
    bootstrap: int
    by_category: dict[str, CategoryDecision | None]

    def to_json(self) -> bytes:
        content = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        return content.encode() + b"\n"

    @property
    def decision(self) -> Decision:
        """The parameters as arrays."""
        parts = [self.by_category[name] for name in self.categories]
        rows = [
            (1.0, 0.0, 0.5, (0.5, 0.5), True)
            if part is None
            else (part.slope, part.intercept, part.threshold, part.threshold_interval, False)
            for part in parts
        ]
        slope, intercept, threshold, doubt, as_scored = zip(*rows, strict=True)
        return Decision(
            categories=tuple(self.categories),
            slope=np.array(slope),
            intercept=np.array(intercept),
            threshold=np.array(threshold),
            doubt=np.array(doubt).reshape(-1, 2),
            as_scored=np.array(as_scored),
        )


class ReadDecision:
    """A decision file as read: its content, its URI, and the digest that tables name."""

    def __init__(self, file: DecisionFile, uri: str, content: bytes) -> None:
        self.file, self.uri = file, uri
        self.digest = hashlib.sha256(content).hexdigest()[:16]
        self.decision = file.decision

    def check(self, detector: str, detector_uri: str, categories: list[str]) -> None:
        """Raise `UserError` if the decision belongs to another detector."""
        if self.file.detector != detector:
            raise UserError(
                f"the decision file {self.uri} belongs to the detector {self.file.detector} "
                f"({self.file.detector_uri}), not to {detector} ({detector_uri}); use `sdmad "
                "calibrate` on scores of this detector"
            )
        if self.file.categories != categories:
            raise UserError(
                f"the decision file {self.uri} is for the categories "
                f"{', '.join(self.file.categories)}, not for {', '.join(categories)}"
            )

    @property
    def metadata(self) -> dict[str, str]:
        """What tables say of the decision."""
        thresholds = (repr(float(np.float32(t))) for t in self.decision.threshold)
        return {
            "decision": self.digest,
            "decision_uri": self.uri,
            "thresholds": ";".join(thresholds),
        }


def read_decision(uri: str) -> ReadDecision:
    """Read a decision file; `UserError` if there is none."""
    content = storage.read_file(uri, "decision file")
    try:
        file = DecisionFile.model_validate_json(content)
        if set(file.by_category) != set(file.categories):
            raise ValueError("categories differ")
    except (ValidationError, ValueError):
        raise UserError(
            f"{uri} is not a decision file of this version of sdmad; make one with "
            "`sdmad calibrate`"
        ) from None
    return ReadDecision(file, uri, content)


def apply_to_rows(decision: Decision, rows: pa.Table) -> pa.Table:
    """Score rows with calibrated probabilities and the findings of the decision.

    The columns stay the same. `score_c`, `logit_c`, `spread_c` and `seeds_c` are calibrated;
    `findings`, `uncertain`, `signs` and `evidence` follow the new findings, of which those that
    the detector had not found have no signs. The anomaly score is not changed, except that of a
    single category, which is the score of that category.
    """
    names = decision.categories
    if rows.num_rows == 0:
        return rows
    logits = np.stack([rows[f"logit_{name}"].to_numpy() for name in names], axis=1)
    before = np.stack([rows[f"score_{name}"].to_numpy() for name in names], axis=1)
    scores, changed = decision.scores(logits, before), decision.logits(logits)
    found = decision.found(scores)
    columns: dict[str, pa.Array] = {}
    for c, name in enumerate(names):
        columns[f"score_{name}"] = pa.array(scores[:, c])
        columns[f"logit_{name}"] = pa.array(changed[:, c])
        spread = decision.spread(c, before[:, c], rows[f"spread_{name}"].to_numpy())
        if f"seeds_{name}" in rows.column_names:
            values = rows[f"seeds_{name}"].combine_chunks()
            seeds = values.flatten().to_numpy().reshape(-1, values.type.list_size)
            seeds = decision.seeds(c, seeds)
            flat = pa.array(np.ascontiguousarray(seeds).reshape(-1))
            columns[f"seeds_{name}"] = pa.FixedSizeListArray.from_arrays(flat, seeds.shape[1])
            if not decision.as_scored[c]:
                spread = seeds.std(axis=1)
        columns[f"spread_{name}"] = pa.array(spread.astype(np.float32))
    if len(names) == 1:
        same = {"anomaly_score": "score", "anomaly_logit": "logit", "anomaly_seeds": "seeds"}
        there = [column for column in same if column in rows.column_names]
        columns |= {column: columns[f"{same[column]}_{names[0]}"] for column in there}
    columns["findings"] = _names_of(found, names)
    doubtful = decision.doubtful(scores)
    kept = tables.finding_matrix(rows["uncertain"], names) & decision.as_scored
    columns["uncertain"] = _names_of(doubtful | kept, names)
    for name in ("signs", "evidence"):
        columns[name] = _of_findings(rows[name].combine_chunks(), found, names)
    for name, column in columns.items():
        index = rows.schema.get_field_index(name)
        field = rows.schema.field(index)
        rows = rows.set_column(index, field, column.cast(field.type))
    return rows


def _lists(flat: pa.Array, counts: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _names_of(flags: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    """The names of the flags (rows, names) that are set, one list for each row."""
    flat = pa.array(names, pa.string()).take(pa.array(np.nonzero(flags)[1]))
    return _lists(flat, flags.sum(axis=1))


def _of_findings(column: pa.ListArray, found: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    """Lists of structs that name a category, without those of categories that are not found."""
    flat, parents = pc.list_flatten(column), pc.list_parent_indices(column).to_numpy()
    category = pc.index_in(pc.struct_field(flat, "category"), pa.array(names, pa.string()))
    keep = found[parents, category.to_numpy()]
    return _lists(flat.filter(pa.array(keep)), np.bincount(parents[keep], minlength=len(column)))
