"""Evaluation of hand-made score tables with known metrics."""

import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from sdmad.archive.units import WorkUnit
from sdmad.errors import UserError
from sdmad.evaluation.measure import (
    ENSEMBLE,
    compare_runs,
    load_scored_test,
    measure,
    over_seeds,
)
from sdmad.evaluation.statistics import holm
from sdmad.inputs.matching import NameIndex
from sdmad.report.run import evaluate_run, parse_baselines
from sdmad.report.terminal import print_metrics
from sdmad.scoring import tables
from sdmad.scoring.plan import encode_plan, open_plan
from sdmad.scoring.tables import ScoreColumns, commit_unit, empty_failures
from sdmad.storage import StoredObject

CATEGORIES = ["one", "two"]


def write_run(folder: Path, scores: np.ndarray, per_seed: bool = True) -> str:
    """Write a scoring run over images 0.png, 1.png, ... with the seed scores (N, C, S)."""
    columns = ScoreColumns(CATEGORIES, scores.shape[2], per_seed)
    metadata = {
        "archive": str(folder / "archive"),
        "detector": "d",
        "detector_uri": str(folder / "no-detector"),
        "backbone": "phantom 0",
        "catalog": "c" * 64,
        "categories": ";".join(CATEGORIES),
        "seeds": ";".join(map(str, range(scores.shape[2]))),
        "per_seed": str(per_seed).lower(),
    }
    rows = []
    for k, values in enumerate(scores):
        row = {"uri": f"u{k}", "archive": "a.tar", "member": f"{k}.png"}
        row |= {"anomaly_score": float(values.max(0).mean()), "anomaly_logit": 0.0}
        row |= {"findings": [], "uncertain": [], "signs": [], "evidence": []}
        if per_seed:
            row["anomaly_seeds"] = values.max(0).tolist()
        for c, name in enumerate(CATEGORIES):
            row[f"score_{name}"] = float(values[c].mean())
            row[f"spread_{name}"] = float(values[c].std())
            row[f"logit_{name}"] = 0.0
            if per_seed:
                row[f"seeds_{name}"] = values[c].tolist()
        rows.append(row)
    table = pa.Table.from_pylist(rows, columns.schema)
    folder.mkdir(exist_ok=True)
    archive = metadata["archive"]
    shard = (StoredObject(f"{archive}/a.tar", 1, "x"),)
    units = [
        WorkUnit(digit * 16, "tar", archive, shard, (k, k + 1)) for k, digit in enumerate("01")
    ]
    (folder / "plan.parquet").write_bytes(encode_plan(units, metadata))
    half = len(rows) // 2
    for unit, part in (("0" * 16, table.slice(half)), ("1" * 16, table.slice(0, half))):
        commit_unit(str(folder), unit, part, empty_failures(), metadata)
    return str(folder)


@pytest.fixture
def truth() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random((60, 2)) < 0.4


@pytest.fixture
def labels(tmp_path, truth) -> str:
    lines = ["archive,member,patient_id,split,labels"]
    for k, row in enumerate(truth):
        names = ";".join(n for n, y in zip(CATEGORIES, row, strict=True) if y)
        lines.append(f"a.tar,{k}.png,p{k},{'test' if k < 50 else 'pool'},{names}")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_each_seed_is_measured_on_its_own(tmp_path, truth, labels) -> None:
    perfect = np.where(truth, 0.9, 0.1)
    run = write_run(tmp_path / "run", np.stack([perfect, 1 - perfect], axis=-1))
    test = load_scored_test(run, labels)
    assert len(test.table) == 50, "the pool does not count"
    metrics = measure(test).set_index(["protocol", "metric", "category", "seed"]).value
    for metric in ("hamming_score", "subset_accuracy", "macro_f1"):
        assert metrics["multi-label prediction", metric, "", "0"] == 1
        assert metrics["multi-label prediction", metric, "", "1"] < 0.2
    assert metrics["anomaly detection", "auroc", "", "0"] == 1
    assert metrics["category discrimination", "others", "two", "0"] == 1
    assert metrics["category discrimination", "others", "two", "1"] == 0
    assert (metrics.index.get_level_values("seed") == ENSEMBLE).sum() == 12


def test_scores_and_labels_are_joined_by_name(tmp_path, truth, labels) -> None:
    perfect = np.where(truth, 0.9, 0.1)[..., None]
    run = write_run(tmp_path / "run", perfect)
    lines = Path(labels).read_text().splitlines()
    Path(labels).write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    summary = over_seeds(measure(load_scored_test(run, labels)))
    assert summary["multi-label prediction", "subset_accuracy"].mean == 1


def test_without_seed_scores_only_the_ensemble_is_measured(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None], per_seed=False)
    test = load_scored_test(run, labels)
    metrics = measure(test)
    assert set(metrics.seed) == {ENSEMBLE}
    summary = over_seeds(metrics)["anomaly detection", "auroc"]
    assert (summary.mean, summary.seeds) == (1, 1)
    assert np.isnan([summary.std, summary.low, summary.high]).all()
    assert test.no_deviation == "its detector has one seed"


def test_why_there_is_no_deviation_over_seeds(tmp_path, truth, labels) -> None:
    scores = np.where(truth, 0.9, 0.1)[..., None].repeat(2, axis=2)
    with_seeds = load_scored_test(write_run(tmp_path / "a", scores), labels)
    without = load_scored_test(write_run(tmp_path / "b", scores, per_seed=False), labels)
    assert with_seeds.no_deviation == ""
    assert without.no_deviation.startswith("it was scored with --no-per-seed")


def test_differences_are_paired_by_seed(tmp_path, truth, labels) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.3, (60, 2, 4))
    ours = np.clip(np.where(truth, 0.8, 0.2)[..., None] + noise, 0, 1)
    theirs = np.clip(np.where(truth, 0.7, 0.3)[..., None] + noise, 0, 1)
    metrics = [
        measure(load_scored_test(write_run(tmp_path / name, s), labels))
        for name, s in (("ours", ours), ("theirs", theirs))
    ]
    ours, theirs = metrics
    found = compare_runs(ours, {"theirs": theirs, "itself": ours})
    difference = found["theirs"]["anomaly detection", "auroc"]
    single = [over_seeds(f)["anomaly detection", "auroc"] for f in metrics]
    assert difference.mean == pytest.approx(single[0].mean - single[1].mean)
    values = [m[(m.metric == "auroc") & (m.seed != "ensemble")].value for m in metrics]
    assert difference.p == pytest.approx(stats.ttest_rel(*values).pvalue)
    assert {d.verdict for d in found["itself"].values()} == {"not distinguishable"}
    p = [d.p for differences in found.values() for d in differences.values()]
    assert difference.corrected_p == pytest.approx(holm(np.array(p))[p.index(difference.p)])


def test_test_images_without_a_score_are_counted(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[:40, :, None])
    test = load_scored_test(run, labels)
    assert (len(test.table), test.missing) == (40, 10)
    (notice,) = test.notices
    assert notice.startswith("10 of 50 test images have no score (normal ")
    for category in ("normal", *CATEGORIES):
        row = {"one": truth[:, 0], "two": truth[:, 1], "normal": ~truth.any(axis=1)}[category]
        lost = f"{row[40:50].sum()} of {row[:50].sum()}"
        assert (f"{category} {lost}" in notice) == bool(row[40:50].any())
    assert ".png" not in notice
    assert "a.tar/40.png, a.tar/41.png, a.tar/42.png and 7 more" in notice.named


def renamed(labels: str, old: str, new: str) -> None:
    Path(labels).write_text(Path(labels).read_text().replace(old, new))


def test_a_category_without_a_score_ends_the_evaluation(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    lines = Path(labels).read_text().splitlines()
    wrong = [line.replace(".png", ".PNG") if "two" in line else line for line in lines]
    Path(labels).write_text("\n".join(wrong) + "\n")
    count = int(truth[:50, 1].sum())
    first = int(np.flatnonzero(truth[:, 1])[0])
    message = f"none of the {count} test images of two has a score: a.tar/{first}.PNG.*is a.tar/"
    with pytest.raises(UserError, match=message):
        load_scored_test(run, labels)


def test_labels_that_mostly_match_nothing_are_refused(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    lines = Path(labels).read_text().splitlines()
    wrong = [
        f"{line}" if k % 3 == 0 else line.replace(".png", ".dcm") for k, line in enumerate(lines)
    ]
    Path(labels).write_text("\n".join(wrong) + "\n")
    with pytest.raises(UserError, match=r"34 of the 50 test images .* match no image") as raised:
        load_scored_test(run, labels)
    assert "a.tar/0.dcm, a.tar/1.dcm, a.tar/3.dcm and 31 more" in str(raised.value)
    assert "but has a.tar/30.png, a.tar/31.png, a.tar/32.png" in str(raised.value)


def test_images_in_the_failures_are_told_apart_from_unknown_ones(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[:48, :, None])
    failures = empty_failures()
    row = dict.fromkeys(failures.schema.names, "")
    row |= {"archive": "a.tar", "member": "48.png", "reason": "damaged image"}
    failed = pa.Table.from_pylist([row], failures.schema)
    unit = min(tables.done_units(run))
    commit_unit(run, unit, tables.read_part(run, "scores", unit), failed, {})
    (notice,) = load_scored_test(run, labels).notices
    assert "2 of 50 test images have no score" in notice
    assert "has 1 of them in failures" in notice
    assert "does not know 1 of them" in notice
    assert ".png" not in notice
    assert "does not know a.tar/49.png" in notice.named


def test_names_match_despite_a_leading_dot_and_the_form_of_unicode(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    renamed(labels, "a.tar,", "./a.tar,./")
    test = load_scored_test(run, labels)
    assert (len(test.table), test.notices) == (50, [])
    assert over_seeds(measure(test))["multi-label prediction", "subset_accuracy"].mean == 1
    names = NameIndex([("a.tar", unicodedata.normalize("NFD", "M\u00fc.png"))])
    assert ("./a.tar", "M\u00fc.png") in names
    assert names["a.tar", "./M\u00fc.png"] == 0
    assert ("a.tar", "Mu.png") not in names


COMPOSED, DECOMPOSED = "M\u00fc.png", "Mu\u0308.png"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("./0.png", "has scores for a.tar/./0.png and a.tar/0.png, and both match one row of the"),
        ("0.png", "has two scores for a.tar/0.png; `sdmad verify` .* two images of this name"),
    ],
)
def test_two_scores_for_one_label_are_refused_by_name(
    tmp_path, truth, labels, second, message
) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    rename_scored(run, {"59.png": second})
    with pytest.raises(UserError, match=message):
        load_scored_test(run, labels)


def test_two_spellings_of_one_name_are_told_apart(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    rename_scored(run, {"0.png": COMPOSED, "59.png": DECOMPOSED})
    renamed(labels, "a.tar,0.png", f"a.tar,{COMPOSED}")
    with pytest.raises(UserError, match=r"'a.tar/Mu\\u0308.png' and 'a.tar/M\\xfc.png', and both"):
        load_scored_test(run, labels)


def rename_scored(run: str, names: dict[str, str]) -> None:
    """Change the names of members in the score tables of a run."""
    for unit in tables.done_units(run):
        table = tables.read_part(run, "scores", unit)
        members = [names.get(name, name) for name in table["member"].to_pylist()]
        place = table.schema.get_field_index("member")
        field = table.schema.field("member")
        changed = table.set_column(place, field, pa.array(members))
        commit_unit(run, unit, changed, empty_failures(), {})


def test_the_terminal_names_test_images_without_a_score(tmp_path, truth, labels, capsys) -> None:
    scores = np.where(truth, 0.9, 0.1)[..., None]
    run = write_run(tmp_path / "run", scores[:45])
    other = write_run(tmp_path / "other", scores[:44])
    print_metrics(evaluate_run(run, labels, str(tmp_path / "out"), {"theirs": other}))
    shown = capsys.readouterr().err
    assert ".png" not in shown
    assert "notice: 5 of 50 test images have no score" in shown
    assert "notice: baseline theirs: 6 of 50 test images have no score" in shown


def test_labels_of_another_archive_are_refused(tmp_path, truth, labels) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    Path(labels).write_text(Path(labels).read_text().replace("a.tar", "b.tar"))
    with pytest.raises(UserError, match="none of the 50 test images"):
        load_scored_test(run, labels)


def test_only_tables_of_units_with_labelled_images_are_read_and_only_needed_columns(
    tmp_path, truth, labels
) -> None:
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    metadata, units = open_plan(run)
    shard = (StoredObject(f"{metadata['archive']}/b.tar", 1, "x"),)
    loose = (StoredObject(f"{metadata['archive']}/x.png", 1, "x"),)
    others = [
        WorkUnit("2" * 16, "tar", metadata["archive"], shard),
        WorkUnit("3" * 16, "objects", metadata["archive"], loose),
    ]
    Path(run, "plan.parquet").write_bytes(encode_plan([*units, *others], metadata))
    for unit in others:
        Path(run, "scores", f"part-{unit.id}.parquet").write_bytes(b"not to be read")
    # What is left of a unit that is in no plan does not count.
    first = next(Path(run, "scores").glob("part-*"))
    Path(run, "scores", f"part-{'4' * 16}.parquet").write_bytes(first.read_bytes())
    test = load_scored_test(run, labels, details=False)
    assert len(test.table) == 50
    assert set(test.rows.column_names) == {
        *("archive", "member", "anomaly_score", "score_one", "score_two", "seeds_one", "seeds_two"),
        "anomaly_seeds",
    }
    assert {"signs", "findings"} <= set(load_scored_test(run, labels).rows.column_names)


def test_tables_without_anomaly_scores_of_each_seed_are_refused(tmp_path, truth, labels) -> None:
    """As versions before the anomaly score had a head of its own have written them."""
    run = write_run(tmp_path / "run", np.where(truth, 0.9, 0.1)[..., None])
    for part in Path(run, "scores").glob("part-*"):
        pq.write_table(pq.read_table(part).drop_columns("anomaly_seeds"), part)
    with pytest.raises(UserError, match="older version of sdmad and have no column anomaly_seeds"):
        load_scored_test(run, labels)


def test_an_evaluation_writes_metrics_run_record_and_report(tmp_path, truth, labels) -> None:
    scores = np.where(truth, 0.9, 0.1)[..., None].repeat(3, -1)
    run = write_run(tmp_path / "run", scores)
    result = evaluate_run(run, labels, str(tmp_path / "out"), {"same": run})
    table = pq.read_table(io.BytesIO((tmp_path / "out" / "protocols.parquet").read_bytes()))
    assert table.column_names == ["protocol", "metric", "category", "seed", "value"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["metrics"]["anomaly detection: AUROC"]["mean"] == 1
    page = Path(result.report).read_text()
    assert "Not shown: there is no detector at" in page


def test_baselines_are_given_as_name_and_uri() -> None:
    assert parse_baselines(["a=s3://b/c"]) == {"a": "s3://b/c"}
    with pytest.raises(UserError, match="name=URI"):
        parse_baselines(["s3://b/c"])
