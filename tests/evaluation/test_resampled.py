"""Metrics of resampled images, against the protocols on arrays that repeat these images."""

import numpy as np
import pytest

from sdmad.evaluation import protocols
from sdmad.evaluation.measure import HEADLINES
from sdmad.evaluation.resampled import resampled_metrics


def directly(truth, scores, anomaly) -> dict[tuple[str, str], float]:
    """By the protocols, which use scikit-learn."""
    found = {
        ("anomaly detection", metric): value
        for metric, value in protocols.anomaly_detection(truth, anomaly).items()
    }
    for kind, values in protocols.category_discrimination(truth, scores).items():
        found["category discrimination", f"macro_{kind}"] = np.nanmean(values)
    return found | {
        ("multi-label prediction", metric): value
        for metric, value in protocols.multilabel_prediction(truth, scores).items()
    }


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def made(random: np.random.Generator, decimals: int) -> tuple[np.ndarray, ...]:
    """Truth, scores and anomaly scores of 120 images; few decimals make many ties."""
    truth = random.random((120, 3)) < (0.3, 0.2, 0.15)
    scores = np.clip(0.4 + 0.2 * truth + random.normal(0, 0.25, truth.shape), 0, 1)
    anomaly = np.clip(scores.max(axis=1) + random.normal(0, 0.1, 120), 0, 1)
    rounded = (scores.round(decimals), anomaly.round(decimals))
    return truth, *(values.astype(np.float32) for values in rounded)


@pytest.mark.parametrize("decimals", [1, 6])
def test_every_metric_is_that_of_the_resampled_arrays(random, decimals) -> None:
    truth, scores, anomaly = made(random, decimals)
    patient = np.sort(random.integers(50, size=120))
    _, patient = np.unique(patient, return_inverse=True)
    drawn = [random.integers(patient.max() + 1, size=patient.max() + 1) for _ in range(20)]
    times = np.stack([np.bincount(some, minlength=patient.max() + 1) for some in drawn])
    found = resampled_metrics(truth, scores, anomaly, times[:, patient].T.astype(np.float32))
    assert list(found) == list(HEADLINES)
    for replicate, some in enumerate(drawn):
        rows = np.concatenate([np.flatnonzero(patient == p) for p in some])
        expected = directly(truth[rows], scores[rows], anomaly[rows])
        for key, values in found.items():
            assert values[replicate] == pytest.approx(expected[key], abs=1e-6), key


def test_every_image_once_is_the_metric_itself(random) -> None:
    truth, scores, anomaly = made(random, 2)
    found = resampled_metrics(truth, scores, anomaly, np.ones((120, 1), np.float32))
    for key, value in directly(truth, scores, anomaly).items():
        assert found[key].item() == pytest.approx(value, abs=1e-6), key


def test_a_replicate_leaves_out_a_category_whose_images_it_lacks(random) -> None:
    truth, scores, anomaly = made(random, 6)
    without = ~truth[:, 2]
    found = resampled_metrics(truth, scores, anomaly, without[:, None].astype(np.float32))
    expected = directly(truth[without][:, :2], scores[without][:, :2], anomaly[without])
    for key in HEADLINES:
        if key[1].startswith("macro"):
            assert found[key].item() == pytest.approx(expected[key], abs=1e-6), key


def test_replicates_without_one_of_the_groups_have_no_value(random) -> None:
    truth, scores, anomaly = made(random, 6)
    normal = ~truth.any(axis=1)
    weights = np.stack([normal, ~normal], axis=1).astype(np.float32)
    found = resampled_metrics(truth, scores, anomaly, weights)
    assert np.isnan(found["anomaly detection", "auroc"]).all()
    assert np.isnan(found["category discrimination", "macro_normal"]).all()
    assert np.isfinite(found["multi-label prediction", "hamming_score"]).all()
    rare = np.zeros((120, 3), bool)
    rare[:4] = True
    values = resampled_metrics(rare, scores, anomaly, np.ones((120, 2), np.float32))
    assert np.isnan(values["category discrimination", "macro_others"]).all()
    assert np.isnan(values["multi-label prediction", "macro_f1"]).all()
