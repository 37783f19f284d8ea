"""Decision files from the scores of a real detector: which images count, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdmad import Detector
from sdmad.commands.calibrate import calibrate as command
from sdmad.errors import UserError
from sdmad.evaluation.calibrate import (
    Options,
    calibrate,
    parse_prevalence,
    parse_target,
    write_decision,
)
from sdmad.evaluation.measure import load_scored_test
from sdmad.evaluation.thresholds import Target
from sdmad.inputs.labels import load_labels
from sdmad.inputs.support import draw_support
from sdmad.scoring.decisions import apply_to_rows, read_decision
from tests.helpers import run_command
from tests.report.made import scored_archive, stored

TARGET = Target("specificity", 0.9)
QUICK = Options(bootstrap=100)


@pytest.fixture(scope="module")
def scores(archive: Path, training_run: Path, tmp_path_factory) -> str:
    """All images of the archive, scored."""
    detector = Detector.load(str(training_run))
    test = scored_archive(archive, str(training_run), detector, ("pool", "test"))
    return stored(test, str(tmp_path_factory.mktemp("scores")))


@pytest.fixture(scope="module")
def labels(archive: Path) -> str:
    return str(archive / "labels.csv")


@pytest.fixture(scope="module")
def categories(catalog) -> list[str]:
    return catalog.category_names


@pytest.fixture(scope="module")
def file(scores: str, labels: str):
    return calibrate(scores, labels, TARGET, {"tumour": 0.05}, QUICK)[0]


def rewritten(labels: str, folder: Path, change) -> str:
    """The label table with other rows: `change` gets and returns the fields of a row."""
    head, *rows = Path(labels).read_text().splitlines()
    path = folder / "labels.csv"
    path.write_text("\n".join([head, *(",".join(change(row.split(","))) for row in rows)]) + "\n")
    return str(path)


def test_neither_the_support_nor_its_patients_nor_test_images_count(file, labels, catalog) -> None:
    table = load_labels(labels, catalog.category_names)
    rows = np.unique(np.concatenate([draw_support(table, 2, seed) for seed in range(3)]))
    patients = set(table.patient[rows])
    others = sum(p in patients for p in table.patient[table.split == "pool"]) - len(rows)
    assert file.split == "pool"
    assert file.left_out["support images"] == len(rows)
    assert file.left_out.get("other images of support patients", 0) == others
    assert file.images == 200 - len(rows) - others


def test_the_target_is_reached_on_the_images_and_findings_follow(file, scores, labels) -> None:
    for part in file.by_category.values():
        assert part.specificity.value >= 0.9
        assert part.specificity.low <= part.specificity.value <= part.specificity.high
        low, high = part.threshold_interval
        assert low <= part.threshold <= high
    # Lower prevalence, lower probabilities, the same findings.
    again, _ = calibrate(scores, labels, TARGET, {}, QUICK)
    tumour = [f.by_category["tumour"] for f in (file, again)]
    assert tumour[0].threshold < tumour[1].threshold
    assert tumour[0].sensitivity == tumour[1].sensitivity
    assert tumour[0].findings_a_thousand.value < tumour[1].findings_a_thousand.value


def test_probabilities_have_the_share_of_the_category_as_their_mean(file, scores, labels) -> None:
    """Over the images that were used, where no other prevalence is stated."""
    test = load_scored_test(scores, labels)
    decided = apply_to_rows(file.decision, test.rows)
    for name in ("infarct", "abscess"):
        before, after = (t[f"score_{name}"].to_numpy().mean() for t in (test.rows, decided))
        truth = test.truth[:, test.table.categories.index(name)].mean()
        assert abs(after - truth) < abs(before - truth) + 0.02


def test_a_validation_split_is_used_if_there_is_one(scores, labels, categories, tmp_path) -> None:
    def change(row):
        held_out = row[3] == "pool" and int(row[2].split("-")[1]) % 4
        return [*row[:3], "validation" if held_out else row[3], *row[4:]]

    own = rewritten(labels, tmp_path, change)
    target, kept = Target("specificity", 0.5), tuple(c for c in categories if c != "tumour")
    options = Options(training_labels=labels, as_scored=kept, bootstrap=100)
    file, _ = calibrate(scores, own, target, {}, options)
    assert file.split == "validation"
    assert [name for name, part in file.by_category.items() if part] == ["tumour"]
    with pytest.raises(UserError, match=r"cannot be drawn again from .*--training-labels"):
        calibrate(scores, own, target, {}, QUICK)


def test_too_few_patients_are_refused_with_the_number_needed(scores, labels) -> None:
    with pytest.raises(UserError) as refused:
        calibrate(scores, labels, Target("specificity", 0.99), {}, QUICK)
    text = str(refused.value)
    assert "needs 299" in text
    assert "even without any false finding the 95 % lower bound misses the target" in text
    assert "patients without it of 299" in text
    with pytest.raises(UserError, match=r"tumour has \d+ patients with it of 59"):
        calibrate(scores, labels, Target("sensitivity", 0.95), {}, QUICK)


def patients_with(scores: str, labels: str, categories: list[str]) -> dict[str, int]:
    """The patients with each category whom calibration counts."""
    file, _ = calibrate(scores, labels, Target("specificity", 0.5), {}, QUICK)
    return {name: file.by_category[name].patients_with for name in categories}


def test_categories_that_lack_patients_can_be_left_out(scores, labels, categories) -> None:
    """Only where others are left."""
    known = patients_with(scores, labels, categories)
    target = Target("sensitivity", 0.5).shown_by(max(known.values()))
    lacking = [name for name in categories if known[name] < target.needed]
    assert 0 < len(lacking) < len(categories)
    with pytest.raises(UserError) as refused:
        calibrate(scores, labels, target, {}, QUICK)
    options = " ".join(f"--as-scored {name}" for name in lacking)
    assert str(refused.value).endswith(
        f"label more, or leave these categories as they were scored, with {options}"
    )
    calibrate(scores, labels, target, {}, Options(as_scored=tuple(lacking), bootstrap=100))


def test_where_all_categories_lack_patients_another_target_is_named(
    scores, labels, categories
) -> None:
    known = patients_with(scores, labels, categories)
    target = Target("sensitivity", 0.99)
    with pytest.raises(UserError) as refused:
        calibrate(scores, labels, target, {}, QUICK)
    other = target.shown_by(min(known.values()))
    assert str(refused.value).endswith(
        f"label more, or give a target that needs fewer, such as --sensitivity {other.value:g}"
    )
    calibrate(scores, labels, other, {}, QUICK)


def test_the_test_split_is_refused(scores, labels, tmp_path) -> None:
    output = tmp_path / "decision.json"
    options = ("--scores", scores, "--labels", labels, "--output", output, "--specificity", "0.9")
    result = run_command(command, *options, "--split", "test")
    assert result.returncode == 2
    assert "the test split is for `sdmad evaluate`" in result.stderr
    assert not output.exists()


def test_images_of_test_patients_do_not_count(scores, labels, categories, tmp_path) -> None:
    """A patient whose other image is in the test split."""
    table = Path(labels).read_text().splitlines()[1:]
    drawn = load_labels(labels, categories)
    support = {drawn.patient[r] for s in range(3) for r in draw_support(drawn, 2, s)}
    patient = next(
        r.split(",")[2] for r in table if ",pool," in r and r.split(",")[2] not in support
    )
    first = next(r.split(",")[1] for r in table if ",test," in r)

    def change(row):
        return [row[0], row[1], patient if row[1] == first else row[2], *row[3:]]

    own = rewritten(labels, tmp_path, change)
    file, _ = calibrate(scores, own, TARGET, {}, Options(training_labels=labels, bootstrap=100))
    assert file.left_out["images of test patients"] == sum(
        r.split(",")[2] == patient and ",pool," in r for r in table
    )


def test_a_decision_is_refused_for_another_detector(file, tmp_path) -> None:
    path = tmp_path / "decision.json"
    write_decision(file, str(path))
    read = read_decision(str(path))
    read.check(file.detector, "here", file.categories)
    with pytest.raises(UserError, match=r"belongs to the detector \w+ .*, not to other \(there\)"):
        read.check("other", "there", file.categories)
    path.write_text(json.dumps({"kind": "something"}))
    with pytest.raises(UserError, match="is not a decision file"):
        read_decision(str(path))
    with pytest.raises(UserError, match="is not a decision file"):
        write_decision(file, str(path))


def test_the_detector_must_be_the_one_that_scored(scores, labels, training_run, tmp_path) -> None:
    run = Path(shutil.copytree(training_run, tmp_path / "run"))
    next(run.rglob("seed=2.safetensors")).unlink()
    with pytest.raises(UserError, match="did not make these scores; give the one that did"):
        calibrate(scores, labels, TARGET, {}, Options(detector=str(run)))


@pytest.mark.parametrize("text", ["tumour", "tumour=1.5", "=0.1", "tumour=x"])
def test_prevalences_have_a_form(text) -> None:
    with pytest.raises(UserError, match="does not have the form category=share"):
        parse_prevalence([text])


def test_exactly_one_target_is_given() -> None:
    assert parse_target(None, 0.9, None) == Target("sensitivity", 0.9)
    for given in ((None, None, None), (0.9, 0.9, None)):
        with pytest.raises(UserError, match="give one target"):
            parse_target(*given)
    with pytest.raises(UserError, match="--max-findings-a-thousand is 1500; it must be between"):
        parse_target(None, None, 1500)
