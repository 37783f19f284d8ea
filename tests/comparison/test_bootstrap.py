"""The two-level bootstrap: its draws, its replicates, and the coverage of its intervals."""

import numpy as np
import pytest

from sdmad.comparison import bootstrap as two_level
from sdmad.comparison.bootstrap import bootstrap, draw_patients, draw_seeds
from sdmad.comparison.cell import metrics
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.run import cell_uri, stored_name
from sdmad.comparison.scores import write_scores, write_test
from sdmad.evaluation.measure import HEADLINES
from sdmad.evaluation.resampled import resampled_metrics
from sdmad.evaluation.statistics import over_seeds, over_seeds_and_patients
from sdmad.inputs.labels import LabelTable

CATEGORIES = ["one", "two"]


def config(**more: object) -> CompareConfig:
    content = {
        "archive": "a",
        "labels": "l",
        "catalog": "phantoms",
        "methods": ["sd_mad", "linear_probe"],
        "shots": [1, 4],
        "seeds": "0:3",
        "bootstrap": 4,
    }
    return CompareConfig.model_validate(content | more)


@pytest.fixture
def compared(tmp_path):
    """A comparison's output with 40 patients of two images; scores by (method, shots, seed)."""
    random = np.random.default_rng(0)
    truth = np.repeat(random.random((40, 2)) < 0.35, 2, axis=0)
    names = np.array([str(k) for k in range(80)], object)
    patient = np.array([f"p{k // 2:02d}" for k in range(80)], object)
    table = LabelTable(names, names, patient, names, truth, CATEGORIES)
    write_test(str(tmp_path), table)
    scores = {}
    for shots in (1, 4):
        for method in ("sd_mad", "linear_probe"):
            for seed in range(3):
                some = np.clip(0.4 + 0.2 * truth + random.normal(0, 0.3, truth.shape), 0, 1)
                some = some.astype(np.float32)
                scores[method, shots, seed] = (some, some.max(axis=1))
                cell = cell_uri(str(tmp_path), stored_name(config(), method), shots, seed)
                write_scores(cell, CATEGORIES, *scores[method, shots, seed])
    return str(tmp_path), truth, scores


def test_replicates_are_means_over_drawn_seeds_of_metrics_of_drawn_patients(compared) -> None:
    output, truth, scores = compared
    found = bootstrap(config(), output)
    assert (found.count, found.seeds, found.patients) == (4, 3, 40)
    seeds, patients = draw_seeds(3, 4), draw_patients(40, 4)
    assert len(found.means) == 2 * 2 * len(HEADLINES)
    for replicate in range(4):
        rows = np.repeat(np.arange(80), np.repeat(patients[:, replicate], 2))
        for shots in (1, 4):
            for method in ("sd_mad", "linear_probe"):
                of_seeds = [
                    metrics(truth[rows], *(part[rows] for part in scores[method, shots, seed]))
                    for seed in range(3)
                ]
                for key in HEADLINES:
                    expected = seeds[replicate] @ [values[key] for values in of_seeds]
                    value = found.means[(method, shots, *key)][replicate]
                    assert value == pytest.approx(expected, abs=1e-6), (method, shots, key)


def test_replicates_do_not_depend_on_the_size_of_blocks(compared, monkeypatch) -> None:
    output, *_ = compared
    whole = bootstrap(config(), output)
    monkeypatch.setattr(two_level, "VALUES_AT_ONCE", 3 * 80)
    for key, values in bootstrap(config(), output).means.items():
        assert values == pytest.approx(whole.means[key], abs=1e-6)


def test_no_replicates_where_there_is_nothing_to_resample(compared) -> None:
    output, *_ = compared
    assert bootstrap(config(bootstrap=0), output) is None
    assert bootstrap(config(seeds="1:2"), output) is None


def test_draws_of_seeds_give_the_unbiased_variance_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=5)
    draws = draw_seeds(5, 20_000)
    assert draws.sum(axis=1) == pytest.approx(1)
    assert (draws @ values).var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)


def test_draws_of_patients_are_as_many_as_there_are_and_repeatable() -> None:
    draws = draw_patients(30, 100)
    assert (draws.sum(axis=0) == 30).all()
    assert draws.mean(axis=1) == pytest.approx(np.ones(30), abs=0.4)
    assert np.array_equal(draws, draw_patients(30, 100))


def test_intervals_contain_the_true_difference_in_95_percent() -> None:
    """Of 200 made-up comparisons of two methods, with 6 supports and 60 patients of two images.

    A score is a * y plus a part of the patient and noise, with variance 1 together; a depends on
    the support. So the AUROC for other supports and patients is known.
    """
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 2)
    strengths = {"ours": (1.0, 0.5), "theirs": (0.6, 0.3)}
    expected = [_expected_auroc(*strengths[method]) for method in strengths]
    true = expected[0] - expected[1]
    once = np.ones((60, 1))
    weights = np.hstack([once, draw_patients(60, 200)])[patient].astype(np.float32)
    draws = draw_seeds(6, 200)
    inside = {"both": 0, "seeds": 0}
    for _ in range(200):
        truth = np.repeat(random.random((60, 1)) < 0.5, 2, axis=0)
        values, replicates = np.zeros(6), np.zeros(200)
        for sign, (mean, spread) in zip((1, -1), strengths.values(), strict=True):
            of_patient = random.normal(0, np.sqrt(0.5), 60)[patient]
            for seed in range(6):
                score = random.normal(mean, spread) * truth[:, 0] + of_patient
                score += random.normal(0, np.sqrt(0.5), 120)
                found = resampled_metrics(truth, score[:, None], score, weights)
                auroc = found["anomaly detection", "auroc"]
                values[seed] += sign * auroc[0]
                replicates += sign * draws[:, seed] * auroc[1:]
        both = over_seeds_and_patients(values, replicates, 60).interval
        only = over_seeds(values).interval
        inside["both"] += both[0] <= true <= both[1]
        inside["seeds"] += only[0] <= true <= only[1]
    assert 0.92 <= inside["both"] / 200 <= 0.99
    assert inside["seeds"] < inside["both"], "these are about the same patients"


def _expected_auroc(mean: float, spread: float) -> float:
    """P(a + e1 > e2) with standard normal e1 and e2 and normal a."""
    from scipy.stats import norm

    return float(norm.cdf(mean / np.sqrt(2 + spread**2)))
