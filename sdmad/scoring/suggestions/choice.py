"""Which images to label next, as pure arrays.

    picks = choose(Pool(evidence, scores, features, known, thresholds, labelled, found), count=50)
    picks[0].row, picks[0].category, picks[0].reason

Each category gets a share of `count`, larger where fewer images are labelled. Half of it are
likely positives, those with the highest evidence, and half are uncertain: their scores are nearest
to the threshold of a finding. Categories with the fewest labels, or else findings, choose first.
Normal images are asked for where they are fewer than those of every category, because a support
needs as many of them.

Images that look alike are asked once. Of the first `OVERSAMPLE` times as many images as are
wanted, those are taken that are farthest from what is labelled or chosen already: greedy k-centre
(Sener & Savarese 2018, Active Learning for Convolutional Neural Networks: A Core-Set Approach).

Shapes: N images, K labelled images, C categories, the last of which is normal, F features.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

LIKELY, UNCERTAIN = "likely", "uncertain"
REASONS = (LIKELY, UNCERTAIN)
OVERSAMPLE = 3
BLOCK = 256  # Images that all others are compared with at once.


@dataclass(frozen=True)
class Pool:
    """Images that can be asked.

    `evidence` and `scores` are (N, C), higher for images with the category; `thresholds` (C,) are
    those of findings. `features` (N, F) are compared by Euclidean distance, `known` (K, F) are
    those of labelled images. `labelled` (C,) are numbers of labelled images, `found` (C,) of images
    of the run with the finding.
    """

    evidence: np.ndarray
    scores: np.ndarray
    features: np.ndarray
    known: np.ndarray
    thresholds: np.ndarray
    labelled: np.ndarray
    found: np.ndarray


@dataclass(frozen=True)
class Pick:
    """A row of the pool, the category that it is asked for, and why."""

    row: int
    category: int
    reason: str


def keys(reason: str, evidence: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """What the images (N,) are ranked by for one category, highest first."""
    return evidence if reason == LIKELY else -np.abs(scores - threshold)


def depth(count: int) -> int:
    """How many images of each category and reason `choose` looks at, at most."""
    return (OVERSAMPLE + 1) * count


def rarest_first(labelled: np.ndarray, found: np.ndarray) -> list[int]:
    """Categories by labelled images, then findings, then the order of the catalog."""
    return [int(c) for c in np.lexsort((found, labelled))]


def shares(count: int, labelled: np.ndarray, found: np.ndarray) -> np.ndarray:
    """How many of `count` images each category gets (C,).

    Normal gets what it lacks against the category with the fewest labels, its even share at most.
    Then one after the other goes to the category that has the fewest, labelled or asked.
    """
    given = np.zeros(len(labelled), int)
    given[-1] = min(max(0, labelled[:-1].min() - labelled[-1]), count // len(labelled))
    order = rarest_first(labelled[:-1], found[:-1])
    for _ in range(count - given[-1]):
        given[min(order, key=lambda c: labelled[c] + given[c])] += 1
    return given


def choose(pool: Pool, count: int) -> list[Pick]:
    """At most `count` images to label, in the order in which they are chosen."""
    wanted = shares(count, pool.labelled, pool.found)
    order = rarest_first(pool.labelled, pool.found)
    free = np.ones(len(pool.evidence), bool)
    distance = nearest(pool.features, pool.known)
    picks: list[Pick] = []
    for reason in REASONS:
        for c in order:
            number = -(-wanted[c] // 2) if reason == LIKELY else wanted[c] // 2
            ranks = keys(reason, pool.evidence[:, c], pool.scores[:, c], float(pool.thresholds[c]))
            rows = np.argsort(-ranks, kind="stable")
            rows = rows[free[rows]][: OVERSAMPLE * number]
            for _ in range(min(number, len(rows))):
                row = int(rows[np.argmax(distance[rows])])
                picks.append(Pick(row, c, reason))
                free[row] = False
                rows = rows[rows != row]
                distance = np.minimum(distance, nearest(pool.features, pool.features[[row]]))
    return picks


def nearest(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance (N,) of each image to the nearest of `others` (K, F); infinite without any."""
    found = np.full(len(features), np.inf)
    for start in range(0, len(others), BLOCK):
        distances = cdist(features, others[start : start + BLOCK])
        np.minimum(found, distances.min(axis=1), out=found)
    return found
