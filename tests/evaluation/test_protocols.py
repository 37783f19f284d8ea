"""Metrics compared with values computed by hand from the definitions in docs/method.md."""

import numpy as np
import pytest

from sdmad.evaluation import protocols

TRUTH = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [0, 0]], bool)


def test_auroc_is_the_share_of_ordered_pairs_of_normal_and_anomalous_images() -> None:
    metrics = protocols.anomaly_detection(TRUTH, np.array([0.9, 0.4, 0.8, 0.5, 0.1]))
    # Six pairs; only (0.4, 0.5) is in the wrong order.
    assert metrics["auroc"] == pytest.approx(5 / 6)


def test_hamming_score_is_intersection_over_union_and_1_when_both_are_empty() -> None:
    p = np.array([[0.9, 0.2], [0.9, 0.9], [0.2, 0.2], [0.1, 0.1], [0.9, 0.1]])
    metrics = protocols.multilabel_prediction(TRUTH, p)
    assert metrics["hamming_score"] == pytest.approx((1 / 2 + 1 / 2 + 0 + 1 + 0) / 5)
    assert metrics["one_minus_hamming_loss"] == pytest.approx(6 / 10)
    assert metrics["subset_accuracy"] == pytest.approx(1 / 5)


def test_category_discrimination_compares_with_normal_and_with_other_anomalies() -> None:
    truth = np.repeat(TRUTH, 5, axis=0)
    p = np.zeros((25, 2))
    p[:10, 0] = 0.8  # images with the first category
    p[10:15, 0] = 0.9  # images with only the second score higher for the first
    p[15:, 0] = 0.1
    p[:, 1] = truth[:, 1]
    metrics = protocols.category_discrimination(truth, p)
    assert metrics["normal"].tolist() == [1.0, 1.0]
    assert metrics["others"].tolist() == [0.0, 1.0]


def test_categories_in_fewer_than_five_images_have_no_auroc() -> None:
    metrics = protocols.category_discrimination(TRUTH, np.random.default_rng(0).random((5, 2)))
    assert np.isnan(metrics["normal"]).all()


def test_the_interval_is_students() -> None:
    summary = protocols.summarise(np.array([0.1, 0.2, 0.3, 0.4]))
    assert summary.mean == pytest.approx(0.25)
    assert summary.std == pytest.approx(0.12909944)
    # t(0.975, 3) = 3.1824463
    assert summary.high - summary.mean == pytest.approx(3.1824463 * 0.12909944 / 2)


def test_the_interval_of_a_share_is_cut_at_0_and_1() -> None:
    summary = protocols.summarise(np.array([0.1, 0.9]))
    assert (summary.low, summary.high) == (0.0, 1.0)


def test_a_metric_that_no_seed_has_has_no_interval() -> None:
    summary = protocols.summarise(np.full(3, np.nan))
    assert np.isnan([summary.mean, summary.std, summary.low, summary.high]).all()


def test_a_single_category_works() -> None:
    truth = np.array([[1], [0]] * 6, bool)
    metrics = protocols.multilabel_prediction(truth, truth.astype(float))
    assert set(metrics.values()) == {1.0}
