"""Few-shot supports: the images that a fit sees.

For each seed, a support has `shots` images of every category and `shots` normal images; shots may
differ by category (`sdmad.inputs.shots`). They are drawn from `split = pool`, without patients of
the test split. An image with two categories counts for both, and the rarest category is drawn
first. The order of the draw is a SHA-256 of seed and image name: a support depends only on data,
shots and seed, not on the order of the label table, and supports of fewer shots use the same order.
New labels change only the supports that they enter or whose draw they reorder: another category
becomes the rarest, or a patient moves to the test split.
"""

import hashlib
import json
from collections import Counter

import numpy as np

from sdmad.errors import UserError
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.shots import Shots, by_category, in_words
from sdmad.words import counted


def draw_support(table: LabelTable, shots: Shots, seed: int) -> np.ndarray:
    """Row numbers of the support in `table`, in the order of image names.

    Images of patients already in the support are drawn last, so that the shots are of different
    patients where possible. Raises `UserError` with the category that has too few images.
    """
    eligible = eligible_rows(table)
    order = sorted(eligible, key=lambda row: _priority(table, row, seed))
    normal = np.asarray(~table.labels.any(axis=1))
    wanted = by_category(shots, table.categories)
    chosen: set[int] = set()
    for column in _rarest_first(table, eligible):
        has = normal if column < 0 else table.labels[:, column]
        available = [row for row in order if has[row]]
        name = table.categories[column] if column >= 0 else "normal"
        asked = wanted[name]
        count = asked if isinstance(asked, int) else max(1, len(available))
        if len(available) < count:
            raise UserError(
                f"{in_words(asked)} {'needs' if count == 1 else 'need'} {counted(count, 'image')} "
                f"of {name} in the pool, and there are {len(available):,} of patients who are not "
                "in the test split; label more images or use fewer shots"
            )
        if len(available) == count:
            chosen.update(available)
            continue
        patients = Counter(table.patient[row] for row in chosen)
        missing = count - sum(bool(has[row]) for row in chosen)
        for _ in range(missing):
            candidates = (row for row in available if row not in chosen)
            row = min(candidates, key=lambda row: patients[table.patient[row]])
            chosen.add(row)
            patients[table.patient[row]] += 1
    return np.array(sorted(chosen, key=lambda row: (table.archive[row], table.member[row])), int)


def support_digest(images: list[tuple[str, str]], labels: np.ndarray) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over names (archive, member) and labels (N, C)
    of a support."""
    rows = [[*image, *map(int, y)] for image, y in zip(images, labels, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def eligible_rows(table: LabelTable) -> list[int]:
    """Rows of the pool whose patients are not in the test split."""
    tested = set(table.patient[table.split == "test"])
    pool = np.flatnonzero(table.split == "pool")
    return [int(row) for row in pool if table.patient[row] not in tested]


def _priority(table: LabelTable, row: int, seed: int) -> bytes:
    text = f"{seed}\x1f{table.archive[row]}\x1f{table.member[row]}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _rarest_first(table: LabelTable, eligible: list[int]) -> list[int]:
    """Category columns by number of eligible images, ties in catalog order, then -1 for normal."""
    counts = table.labels[eligible].sum(axis=0)
    return [*np.argsort(counts, kind="stable").tolist(), -1]
