"""From the scores of the images of a group to one score, all at once or part by part.

    Pooling("mean-top", 3).of(scores, groups, 10)

Shapes: N images, G groups, K columns of scores (an anomaly score, categories, seeds, ...). Scores
are from 0 to 1; `groups` (N,) has the number of the group of each image.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sdmad.errors import UserError

How = Literal["maximum", "mean-top", "noisy-or"]


@dataclass(frozen=True)
class Pooling:
    """How scores become one: the maximum, the mean of the `top` highest (of all, where a group has
    fewer), or noisy-or, 1 - prod(1 - p)."""

    how: How = "maximum"
    top: int = 3

    @staticmethod
    def parse(how: str, top: int) -> "Pooling":
        """The pooling of that name. Raises `UserError` for any other name."""
        for known in get_args(How):
            if how == known:
                return Pooling(known, top)
        raise UserError(f"--how {how!r} is none of {', '.join(get_args(How))}")

    def __str__(self) -> str:
        return f"mean of the top {self.top}" if self.how == "mean-top" else self.how

    def of(self, scores: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
        """Scores (G, K) of `count` groups from those of images (N, K); NaN for empty groups."""
        pooled = Pooled(self, count, scores.shape[1])
        pooled.add(scores, groups)
        return pooled.scores()


class Pooled:
    """The scores of groups, from images that come in parts. Memory grows with groups only."""

    def __init__(self, pooling: Pooling, groups: int, columns: int) -> None:
        self.pooling = pooling
        self.images = np.zeros(groups, np.int64)
        depth = pooling.top if pooling.how == "mean-top" else 1
        if pooling.how == "noisy-or":
            self._sums = np.zeros((groups, columns, 1))
        else:
            self._sums = np.full((groups, columns, depth), -np.inf)

    def add(self, scores: np.ndarray, groups: np.ndarray) -> None:
        """Add images: `scores` (N, K), `groups` (N,)."""
        np.add.at(self.images, groups, 1)
        if self.pooling.how == "noisy-or":
            with np.errstate(divide="ignore"):
                np.add.at(self._sums[:, :, 0], groups, np.log1p(-scores.astype(float)))
        elif self.pooling.how == "maximum":
            np.maximum.at(self._sums[:, :, 0], groups, scores)
        else:
            keep_highest(self._sums, scores, groups)

    def scores(self) -> np.ndarray:
        """The scores (G, K) so far; NaN for groups without images."""
        if self.pooling.how == "noisy-or":
            found = -np.expm1(self._sums[:, :, 0])
        elif self.pooling.how == "maximum":
            found = self._sums[:, :, 0].copy()
        else:
            number = np.minimum(self.images, self.pooling.top)[:, None]
            known = np.where(np.isfinite(self._sums), self._sums, 0).sum(axis=2)
            found = known / np.maximum(number, 1)
        found[self.images == 0] = np.nan
        return found.astype(np.float32)


def keep_highest(
    kept: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    names: np.ndarray | None = None,
    kept_names: np.ndarray | None = None,
) -> None:
    """Keep the highest scores of each group and column in `kept` (G, K, D), highest first.

    With `names` (N,), also the names of the images that have them, in `kept_names` (G, K, D). A
    score of -inf is never kept. Among equal scores the one that came first stays.
    """
    depth = kept.shape[2]
    for column in range(scores.shape[1]):
        values = scores[:, column]
        order = np.lexsort((np.arange(len(values)), -values, groups))
        order = order[np.isfinite(values[order])]
        if not len(order):
            continue
        mine = groups[order]
        starts = np.flatnonzero(np.diff(mine, prepend=-1))
        rank = np.arange(len(mine)) - np.repeat(starts, np.diff(starts, append=len(mine)))
        order, mine, rank = (part[rank < depth] for part in (order, mine, rank))
        touched, place = np.unique(mine, return_inverse=True)
        both = np.full((len(touched), 2 * depth), -np.inf, kept.dtype)
        both[:, :depth] = kept[touched, column]
        both[place, depth + rank] = values[order]
        best = np.argsort(-both, axis=1, kind="stable")[:, :depth]
        kept[touched, column] = np.take_along_axis(both, best, axis=1)
        if names is not None and kept_names is not None:
            called = np.full(both.shape, None, object)
            called[:, :depth] = kept_names[touched, column]
            called[place, depth + rank] = names[order]
            kept_names[touched, column] = np.take_along_axis(called, best, axis=1)
