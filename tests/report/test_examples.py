"""The choice of images for the report."""

import numpy as np
import pytest

from sdmad.report.examples import (
    CLEAR_RIGHT,
    CLEAR_WRONG,
    UNCERTAIN,
    clear_rows,
    gallery,
    uncertain_rows,
)
from tests.report.made import label_table, scored_test

NAMES = ["a", "b", "c"]


def made(truth, scores, uncertain=None):
    truth, scores = np.array(truth, bool), np.array(scores, float)
    doubts = uncertain or [[] for _ in truth]
    return scored_test(label_table(truth, NAMES), scores[..., None], uncertain=doubts)


def test_clear_cases_are_the_most_confident_of_each_kind() -> None:
    test = made(
        [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]],
        [
            [0.7, 0.1, 0.1],
            [0.9, 0.1, 0.1],
            [0.9, 0.4, 0.1],  # The same score for a, but less clear for b.
            [0.2, 0.2, 0.2],
            [0.8, 0.6, 0.1],
            [0.1, 0.2, 0.9],  # A mistake, confident in c.
            [0.9, 0.1, 0.4],  # A mistake, equally confident in a.
        ],
    )
    assert clear_rows(test).tolist() == [4, 3, 1, 5, 6]


def test_the_confidence_of_a_mistake_is_that_of_its_wrong_score() -> None:
    # The first image is correct and confident in a, and narrowly misses b.
    test = made([[1, 1, 0], [1, 0, 0]], [[0.99, 0.45, 0.1], [0.2, 0.1, 0.1]])
    assert clear_rows(test).tolist() == [1, 0]


def test_images_with_uncertain_categories_are_not_clear() -> None:
    scores = [[0.9, 0.1, 0.1], [0.7, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]]
    test = made([[1, 0, 0]] * 4, scores, [["c"], [], ["b"], []])
    assert clear_rows(test).tolist() == [1, 3], "one correct, one mistake"


def test_with_many_categories_there_is_still_room_for_mistakes() -> None:
    names = [f"c{k}" for k in range(20)]
    truth = np.concatenate([np.eye(20, dtype=bool)] * 2)
    scores = np.where(truth, 0.9, 0.1)
    scores[20:] = 1 - scores[20:]
    rows = clear_rows(scored_test(label_table(truth, names), scores[..., None]))
    assert (rows < 20).sum() == CLEAR_RIGHT
    assert (rows >= 20).sum() == CLEAR_WRONG


def test_uncertain_cases_are_ordered_by_distance_to_the_threshold() -> None:
    scores = [[0.8, 0.5, 0.1], [0.5, 0.1, 0.1], [0.6, 0.1, 0.1], [0.1, 0.1, 0.45]]
    test = made([[0, 0, 0]] * 4, scores, [["a"], [], ["a"], ["a", "c"]])
    # Distance of the nearest uncertain score: 0.3 (a), none, 0.1 (a), 0.05 (c).
    nothing = np.array([], int)
    assert uncertain_rows(test, nothing).tolist() == [3, 2, 0]
    assert uncertain_rows(test, np.array([2, 1])).tolist() == [3, 0], "shown rows are left out"
    many = made([[0, 0, 0]] * 20, [[0.5, 0.5, 0.5]] * 20, [["b"]] * 20)
    assert len(uncertain_rows(many, nothing)) == UNCERTAIN
    assert len(uncertain_rows(made([[0, 0, 0]], [[0.5, 0.5, 0.5]]), nothing)) == 0


@pytest.mark.parametrize(
    ("truth", "score", "verdict"),
    [
        ([1, 0, 0], [0.9, 0.1, 0.1], "right"),
        ([0, 0, 0], [0.1, 0.1, 0.1], "right"),
        ([0, 0, 0], [0.9, 0.1, 0.1], "false alarm"),
        ([1, 1, 0], [0.9, 0.1, 0.1], "partly right"),
        ([1, 0, 0], [0.1, 0.1, 0.9], "wrong category"),
        ([1, 0, 0], [0.1, 0.1, 0.2], "missed"),
    ],
)
def test_examples_have_findings_and_a_verdict(truth, score, verdict) -> None:
    test = made([truth, truth], [score, score], [["b"], []])
    pixels = np.zeros((4, 4, 3), np.uint8)
    (example,) = gallery(test, np.array([1, 0]), {0: pixels})
    assert example.name == "a.tar/0.png", "the other image has no pixels"
    assert example.verdict == verdict
    none = pytest.approx(float("nan"), nan_ok=True)  # One seed has no deviation.
    found = [(n, pytest.approx(s), none) for n, s in zip(NAMES, score, strict=True) if s > 0.5]
    assert example.findings == found
    assert example.uncertain == [("b", pytest.approx(0.1), none)]
