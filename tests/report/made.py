"""Scored tests for the report's tests: hand-made, or scored by a detector without Ray."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdmad import Detector, storage
from sdmad.archive.selected import decode_members
from sdmad.evaluation.measure import ScoredTest
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.scoring.plan import make_plan
from sdmad.scoring.tables import ScoreColumns, commit_unit, empty_failures


def scored_test(
    table: LabelTable,
    seeds: np.ndarray,
    findings: list[list[str]] | None = None,
    uncertain: list[list[str]] | None = None,
    signs: list[list[dict[str, Any]]] | None = None,
    **metadata: str,
) -> ScoredTest:
    """A scored test with seed scores (N, C, S); by default, findings are mean scores above 0.5."""
    names, scores = table.categories, seeds.mean(-1)
    rows = []
    for k, values in enumerate(scores):
        row: dict[str, Any] = {
            "uri": f"u{k}",
            "archive": table.archive[k],
            "member": table.member[k],
            "anomaly_score": float(seeds[k].max(0).mean()),
            "anomaly_logit": 0.0,
            "findings": [n for n, v in zip(names, values, strict=True) if v > 0.5],
            "uncertain": [],
            "signs": [],
            "evidence": [],
        }
        given = {"findings": findings, "uncertain": uncertain, "signs": signs}
        row |= {name: column[k] for name, column in given.items() if column is not None}
        for c, name in enumerate(names):
            row |= {f"score_{name}": float(values[c]), f"spread_{name}": float(seeds[k, c].std())}
            row[f"logit_{name}"] = float(np.log(values[c] + 1e-6) - np.log1p(1e-6 - values[c]))
        rows.append(row)
    columns = ScoreColumns(names, seeds.shape[2], False)
    unknown = dict.fromkeys(("archive", "detector", "detector_uri", "backbone", "catalog"), "none")
    return ScoredTest(
        name="run/scores",
        table=table,
        scores=scores.astype(np.float32),
        anomaly=seeds.max(axis=1).mean(-1).astype(np.float32),
        seeds=seeds,
        anomaly_seeds=seeds.max(axis=1),
        seed_names=[str(k) for k in range(seeds.shape[2])],
        rows=pa.Table.from_pylist(rows, columns.schema),
        missing=0,
        metadata=unknown | metadata,
    )


def label_table(truth: np.ndarray, categories: list[str]) -> LabelTable:
    """Test rows for images 0.png, 1.png, ... in a.tar, one patient each."""
    count = len(truth)
    return LabelTable(
        archive=np.full(count, "a.tar", object),
        member=np.array([f"{k}.png" for k in range(count)], object),
        patient=np.array([f"p{k}" for k in range(count)], object),
        split=np.full(count, "test", object),
        labels=truth,
        categories=categories,
    )


def scored_archive(
    archive: Path, uri: str, detector: Detector, splits: tuple[str, ...] = ("test",)
) -> ScoredTest:
    """The test split of an archive, or others too, with the scores of a detector."""
    labels = load_labels(str(archive / "labels.csv"), detector.catalog.category_names)
    table = labels.where(np.isin(labels.split, splits))
    names = [(str(a), str(m)) for a, m in zip(table.archive, table.member, strict=True)]
    pixels, _ = decode_members(str(archive), names, detector.spec)
    scores = detector.score_pixels(np.stack([pixels[name] for name in names]))
    return scored_test(
        table,
        scores.seeds,
        scores.findings,
        scores.uncertain,
        [[vars(evidence) for evidence in row] for row in scores.signs],
        archive=str(archive),
        detector=detector.digest,
        detector_uri=uri,
        backbone="phantom",
        catalog="c" * 64,
        input=detector.spec.to_json(),
    )


def stored(test: ScoredTest, output: str) -> str:
    """The scored test as the tables and the plan of a scoring run; returns `output`."""
    names = test.table.categories
    rows = test.rows
    for c, name in enumerate(names):
        values = pa.array(test.seeds[:, c].astype(np.float32).tolist())
        rows = rows.append_column(f"seeds_{name}", values)
    each = pa.array(test.anomaly_seeds.astype(np.float32).tolist())
    rows = rows.append_column("anomaly_seeds", each)
    metadata = test.metadata | {
        "categories": ";".join(names),
        "seeds": ";".join(test.seed_names),
        "per_seed": "true",
    }
    columns = ScoreColumns(names, len(test.seed_names), per_seed=True)
    rows = rows.select(columns.schema.names).cast(columns.schema)
    for unit in make_plan(test.metadata["archive"], output, metadata).units:
        (shard,) = {storage.name(entry.uri) for entry in unit.objects}
        mine = rows.filter(pc.equal(rows["archive"], shard))
        commit_unit(output, unit.id, mine, empty_failures(), metadata)
    return output
