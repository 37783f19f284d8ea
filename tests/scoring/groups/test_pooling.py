"""Scores of groups, against plain definitions on each group alone."""

import numpy as np
import pytest

from sdmad.errors import UserError
from sdmad.scoring.groups.pooling import Pooled, Pooling, keep_highest


def plain(how: str, top: int, scores: np.ndarray) -> np.ndarray:
    """The definition, on the images (n, K) of one group."""
    if how == "maximum":
        return scores.max(axis=0)
    if how == "mean-top":
        return np.sort(scores, axis=0)[::-1][:top].mean(axis=0)
    return 1 - np.prod(1 - scores, axis=0)


@pytest.mark.parametrize("how", ["maximum", "mean-top", "noisy-or"])
@pytest.mark.parametrize("parts", [1, 5])
def test_scores_of_groups_are_those_of_the_definition(how, parts) -> None:
    rng = np.random.default_rng(parts)
    scores = rng.random((200, 3)).astype(np.float32)
    scores[:20] = scores[0]  # ties
    scores[7, 1] = 1.0
    groups = rng.integers(0, 40, 200)
    pooled = Pooled(Pooling(how, 3), 42, 3)
    for rows in np.array_split(rng.permutation(200), parts):
        pooled.add(scores[rows], groups[rows])
    found = pooled.scores()
    for group in range(42):
        mine = scores[groups == group]
        assert pooled.images[group] == len(mine)
        if not len(mine):
            assert np.isnan(found[group]).all(), "a group without images has no score"
        else:
            assert np.allclose(found[group], plain(how, 3, mine), atol=1e-6)
    assert np.array_equal(found, Pooling(how, 3).of(scores, groups, 42), equal_nan=True) or (
        parts > 1 or how == "noisy-or"
    )


def test_the_images_with_the_highest_scores_are_named() -> None:
    rng = np.random.default_rng(3)
    scores, groups = rng.random((90, 2)).astype(np.float32), rng.integers(0, 6, 90)
    names = np.array([f"{k}.png" for k in range(90)], object)
    kept, called = np.full((7, 2, 4), -np.inf, np.float32), np.full((7, 2, 4), None, object)
    for rows in np.array_split(np.arange(90), 4):
        keep_highest(kept, scores[rows], groups[rows], names[rows], called)
    for group in range(6):
        mine = np.flatnonzero(groups == group)
        for column in range(2):
            best = mine[np.argsort(-scores[mine, column])][:4]
            assert called[group, column].tolist() == names[best].tolist()
            assert np.allclose(kept[group, column], scores[best, column])
    assert not np.isfinite(kept[6]).any()


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(UserError, match="'median' is none of maximum, mean-top, noisy-or"):
        Pooling.parse("median", 3)
