"""Which images are asked, from arrays."""

import numpy as np
import pytest
from scipy.special import expit

from sdmad.scoring.suggestions.choice import LIKELY, UNCERTAIN, Pool, choose, depth, keys, shares


def pool(
    logits: np.ndarray,
    features: np.ndarray | None = None,
    known: np.ndarray | None = None,
    labelled: tuple[int, ...] = (0, 0, 0),
    found: tuple[int, ...] = (0, 0, 0),
) -> Pool:
    """A pool of two categories and normal, with features that are all far apart, unless given."""
    evidence = np.column_stack([logits, -logits.max(axis=1)])
    features = np.eye(len(logits)) if features is None else features
    return Pool(
        evidence=evidence,
        scores=expit(evidence),
        features=features,
        known=features[:0] if known is None else known,
        thresholds=np.full(3, 0.5),
        labelled=np.array(labelled),
        found=np.array(found),
    )


def drawn(count: int = 300) -> np.ndarray:
    return np.random.default_rng(1).normal(-2, 3, (count, 2))


@pytest.mark.parametrize(
    ("count", "labelled", "found", "expected"),
    [
        (10, (0, 0, 0), (5, 9, 0), (5, 5, 0)),
        (11, (0, 0, 0), (9, 5, 0), (5, 6, 0)),
        (10, (2, 8, 2), (9, 5, 0), (8, 2, 0)),
        (10, (2, 40, 9), (9, 5, 0), (10, 0, 0)),
        (3, (7, 7, 9), (5, 9, 0), (2, 1, 0)),
        (12, (7, 7, 5), (5, 9, 0), (5, 5, 2)),
        (12, (7, 7, 0), (5, 9, 0), (4, 4, 4)),
    ],
)
def test_categories_with_fewer_labels_get_more_of_the_count(
    count, labelled, found, expected
) -> None:
    assert tuple(shares(count, np.array(labelled), np.array(found))) == expected


def test_half_are_likely_positives_and_half_are_near_the_threshold() -> None:
    logits = drawn()
    picks = choose(pool(logits, found=(9, 5, 0)), 20)
    assert len({pick.row for pick in picks}) == 20, "no image is asked twice"
    kinds = [(pick.category, pick.reason) for pick in picks]
    # The rarest category comes first, likely positives before uncertain images.
    wanted = [(1, LIKELY), (0, LIKELY), (1, UNCERTAIN), (0, UNCERTAIN)]
    assert kinds == [kind for kind in wanted for _ in range(5)]
    for pick in picks:
        column = logits[:, pick.category]
        if pick.reason == LIKELY:
            assert (column > column[pick.row]).sum() < 15
        else:
            margins = np.abs(expit(column) - 0.5)
            assert (margins < margins[pick.row]).sum() < 15 + 10


def test_images_that_look_alike_are_asked_once() -> None:
    logits = drawn()
    # Every image but the last 290 is one of five photographs, taken twice.
    features = np.eye(300)
    features[:10] = np.repeat(np.eye(300)[:5], 2, axis=0) + 1e-3 * np.arange(10)[:, None]
    logits[:10] = 9 + np.arange(10)[:, None] / 100
    picks = choose(pool(logits, features), 20)
    twins = [pick.row // 2 for pick in picks if pick.row < 10]
    assert len(twins) == len(set(twins)) == 5


def test_images_like_labelled_ones_are_asked_last() -> None:
    logits = np.array([[3.0, -9], [2.9, -9], [2.8, -9], [-9.0, -9]])
    features = np.array([[0.0, 0], [1, 0], [0, 1], [9, 9]])
    near_first = choose(pool(logits, features, known=features[:1] + 1e-3), 1)
    assert [pick.row for pick in near_first] != [0]
    assert [pick.row for pick in choose(pool(logits, features), 1)] == [0]


def test_the_choice_from_the_candidates_is_the_choice_from_all_images() -> None:
    """`depth` candidates of each category and reason are enough."""
    logits = drawn(2000)
    features = np.random.default_rng(2).normal(size=(2000, 8))
    for count, labelled in ((5, (0, 0, 0)), (30, (3, 30, 0)), (30, (9, 9, 0))):
        whole = choose(pool(logits, features, features[:7] + 0.1, labelled), count)
        rows: set[int] = set()
        every = pool(logits)
        for c in range(3):
            for reason in (LIKELY, UNCERTAIN):
                ranks = keys(reason, every.evidence[:, c], every.scores[:, c], 0.5)
                rows |= set(np.argsort(-ranks, kind="stable")[: depth(count)].tolist())
        few = np.array(sorted(rows))
        assert len(few) < 800
        some = choose(pool(logits[few], features[few], features[:7] + 0.1, labelled), count)
        assert [few[pick.row] for pick in some] == [pick.row for pick in whole]


def test_fewer_images_than_asked_are_all_asked() -> None:
    picks = choose(pool(drawn(7)), 50)
    assert sorted(pick.row for pick in picks) == list(range(7))
