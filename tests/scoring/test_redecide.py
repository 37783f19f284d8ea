"""Score tables with a decision file: the same columns, other findings, written part by part."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from sdmad.archive.units import WorkUnit
from sdmad.commands.apply import apply
from sdmad.scoring import redecide, tables
from sdmad.scoring.decisions import (
    apply_to_rows,
    read_decision,
)
from sdmad.scoring.plan import encode_plan, read_plan
from sdmad.scoring.tables import ScoreColumns, commit_unit, empty_failures
from sdmad.storage import StoredObject
from tests.helpers import run_command
from tests.scoring.helpers import decision_file

CATEGORIES = ["one", "two"]
METADATA = {
    "archive": "a",
    "detector": "d" * 16,
    "detector_uri": "train",
    "categories": "one;two",
    "seeds": "0;1;2",
    "per_seed": "true",
}
DECISION = decision_file("d" * 16, CATEGORIES, as_scored=("two",))


def rows(count: int, seed: int, categories: tuple[str, ...] = tuple(CATEGORIES)) -> pa.Table:
    """Scores of three seeds, with what a detector would write of them."""
    rng = np.random.default_rng(seed)
    records = []
    for k in range(count):
        logits = rng.normal(0, 3, (len(categories), 1))
        logits = logits + rng.normal(0, 0.3, (len(categories), 3))
        p = 1 / (1 + np.exp(-logits))
        found = [n for n, v in zip(categories, p.mean(axis=1), strict=True) if v > 0.5]
        record = {"uri": f"u{k}", "archive": "a.tar", "member": f"{seed}-{k}.png"}
        record |= {"anomaly_score": float(p.max()), "anomaly_seeds": p.max(axis=0).tolist()}
        record["anomaly_logit"] = float(logits.max())
        record |= {"findings": found, "uncertain": list(categories) if k % 2 else []}
        record["signs"] = [{"category": n, "sign": f"{n}_sign", "similarity": 0.3} for n in found]
        record["evidence"] = [{"category": n, "sign_logit": 1.0, "probe_logit": 1.0} for n in found]
        for c, name in enumerate(categories):
            record[f"score_{name}"] = float(p[c].mean())
            record[f"spread_{name}"] = float(p[c].std())
            record[f"logit_{name}"] = float(logits[c].mean())
            record[f"seeds_{name}"] = p[c].tolist()
        records.append(record)
    columns = ScoreColumns(list(categories), 3, per_seed=True)
    return pa.Table.from_pylist(records, columns.schema)


def write_run(folder: Path, units: int = 3, done: int = 3) -> str:
    shard = (StoredObject("a/a.tar", 1, "x"),)
    planned = [WorkUnit(f"{k}" * 16, "tar", "a", shard, (k, k + 1)) for k in range(units)]
    folder.mkdir(exist_ok=True)
    (folder / "plan.parquet").write_bytes(encode_plan(planned, METADATA))
    for k, unit in enumerate(planned[:done]):
        commit_unit(str(folder), unit.id, rows(40, k), empty_failures(), METADATA | {"more": "x"})
    return str(folder)


@pytest.fixture
def decision(tmp_path: Path) -> str:
    path = tmp_path / "decision.json"
    path.write_bytes(DECISION.to_json())
    return str(path)


def test_columns_stay_and_findings_follow_the_decision(decision) -> None:
    before, read = rows(60, 0), read_decision(decision)
    after = apply_to_rows(read.decision, before)
    assert after.schema.equals(before.schema)
    kept = ["uri", "archive", "member", "score_two", "seeds_two"]
    kept += ["anomaly_score", "anomaly_logit", "anomaly_seeds"]
    assert after.select(kept).equals(before.select(kept))
    logit = after["logit_one"].to_numpy()
    assert logit == pytest.approx(0.5 * before["logit_one"].to_numpy() - 1, abs=1e-5)
    score = after["score_one"].to_numpy()
    assert score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    found = tables.finding_matrix(after["findings"], tuple(CATEGORIES))
    assert (found[:, 0] == (score > np.float32(0.2))).all()
    assert (found[:, 1] == (before["score_two"].to_numpy() > 0.5)).all()
    seeds = np.stack(after["seeds_one"].to_pylist())
    assert after["spread_one"].to_numpy() == pytest.approx(seeds.std(axis=1), abs=1e-6)
    doubts = tables.finding_matrix(after["uncertain"], tuple(CATEGORIES))
    assert (doubts[:, 0] == ((score >= np.float32(0.15)) & (score <= np.float32(0.25)))).all()
    assert (doubts[:, 1] == (np.arange(60) % 2 == 1)).all(), "as scored"


def test_the_anomaly_score_of_a_single_category_is_the_score_of_that_category() -> None:
    decision, scored = decision_file("d" * 16, ["one"]).decision, rows(40, 0, ("one",))
    for before in (scored, scored.drop_columns("anomaly_logit")):
        after = apply_to_rows(decision, before)
        assert after.schema.equals(before.schema)
        assert after["anomaly_score"].equals(after["score_one"])
        assert after["anomaly_seeds"].equals(after["seeds_one"])
        if "anomaly_logit" in before.column_names:
            assert after["anomaly_logit"].equals(after["logit_one"])


def test_signs_stay_with_their_findings(decision) -> None:
    before = rows(60, 0)
    after = apply_to_rows(read_decision(decision).decision, before)
    gained = lost = 0
    for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True):
        both = set(old["findings"]) & set(new["findings"])
        for column in ("signs", "evidence"):
            assert new[column] == [e for e in old[column] if e["category"] in both]
        gained += len(new["findings"]) > len(both)
        lost += len(old["findings"]) > len(both)
    assert gained or lost


def test_apply_writes_a_run_that_names_the_decision(decision, tmp_path) -> None:
    run, output = write_run(tmp_path / "run"), tmp_path / "out"
    options = ("--decision", decision, "--scores", run, "--output", output)
    result = run_command(apply, *options)
    assert result.returncode == 0, result.stderr
    assert "decided 120 images in 3 work units" in result.stdout
    units, metadata = read_plan(str(output))
    assert (units, metadata["decision"]) == (read_plan(run)[0], read_decision(decision).digest)
    for unit in units:
        known = tables.metadata_of(tables.read_schema(str(output), unit.id))
        assert (known["decision"], known["more"]) == (metadata["decision"], "x")
        assert known["thresholds"] == metadata["thresholds"] == f"{float(np.float32(0.2))!r};0.5"
    glob = f"{output}/scores/*.parquet"
    query = f"select count(*) from '{glob}' where "  # noqa: S608
    ((count,),) = duckdb.sql(query + "list_contains(findings, 'one')").fetchall()
    ((above,),) = duckdb.sql(query + "score_one > 0.2::float").fetchall()
    assert 0 < count == above


def test_the_same_command_goes_on_and_another_decision_is_refused(decision, tmp_path) -> None:
    run, output = write_run(tmp_path / "run", done=2), tmp_path / "out"
    options = ("--decision", decision, "--scores", run, "--output", output)
    first = run_command(apply, *options)
    assert "1 of 3 work units have no scores yet" in first.stderr
    written = {p: p.stat().st_mtime_ns for p in output.glob("scores/*.parquet")}
    write_run(tmp_path / "run", done=3)
    assert "decided 40 images in 1 work unit:" in run_command(apply, *options).stdout
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert "nothing to do: 3 work units decided before" in run_command(apply, *options).stdout
    other = tmp_path / "other.json"
    other.write_bytes(DECISION.model_copy(update={"labels": "others"}).to_json())
    refused = run_command(apply, "--decision", other, "--scores", run, "--output", output)
    assert (refused.returncode, "with another decision" in refused.stderr) == (2, True)


def test_mistakes_are_one_sentence(decision, tmp_path) -> None:
    run = write_run(tmp_path / "run")
    foreign = tmp_path / "foreign.json"
    foreign.write_bytes(decision_file("e" * 16, CATEGORIES, as_scored=("two",)).to_json())
    result = run_command(apply, "--decision", foreign, "--scores", run, "--output", tmp_path / "o")
    assert result.returncode == 2
    assert f"belongs to the detector {'e' * 16} (train), not to {'d' * 16}" in result.stderr
    assert not list((tmp_path / "o").rglob("*.parquet"))
    once = tmp_path / "once"
    run_command(apply, "--decision", decision, "--scores", run, "--output", once)
    twice = run_command(apply, "--decision", decision, "--scores", once, "--output", tmp_path / "t")
    assert (twice.returncode, "was already decided with" in twice.stderr) == (2, True)
    same = run_command(apply, "--decision", decision, "--scores", run, "--output", run)
    assert (same.returncode, "choose another output" in same.stderr) == (2, True)


def test_large_numbers_are_printed_as_by_other_commands(tmp_path, monkeypatch) -> None:
    made = redecide.Applied(2000, 1, 1200, findings_before=1079, findings=1928, waiting=1999)
    monkeypatch.setattr(redecide, "apply_decision", lambda *places: made)
    result = run_command(apply, "--decision", "d", "--scores", "s", "--output", tmp_path)
    assert "1,999 of 2,000 work units have no scores yet" in result.stderr
    assert "decided 1,200 images in 1 work unit: 1,079 findings became 1,928;" in result.stdout
