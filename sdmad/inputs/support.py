"""Few-shot supports: which images a fit sees.

For each seed, `shots` images of every category (an image with two categories counts for both; the
rarest category draws first) and as many normal ones, from `split = pool`, without the patients of
the test split. Whose turn it is comes from a SHA-256 of seed and image name, so a draw depends on
(data, shots, seed) alone, and the support of fewer shots is drawn in the same order.
"""

import hashlib
from collections import Counter

import numpy as np

from sdmad.errors import UserError
from sdmad.inputs.labels import LabelTable


def draw_support(table: LabelTable, shots: int, seed: int) -> np.ndarray:
    """Row numbers of the support in `table`, ascending.

    Images of patients already drawn come last, so that shots are different patients where they
    can be. Raises `UserError` that names the category with too few examples.
    """
    eligible = eligible_rows(table)
    order = sorted(eligible, key=lambda row: _priority(table, row, seed))
    normal = np.asarray(~table.labels.any(axis=1))
    chosen: list[int] = []
    for column in _rarest_first(table, eligible):
        has = normal if column < 0 else table.labels[:, column]
        available = [row for row in order if has[row]]
        if len(available) < shots:
            name = table.categories[column] if column >= 0 else "normal"
            raise UserError(
                f"{shots} shots need {shots} images of {name} in the pool, and there are "
                f"{len(available)} whose patients are not in the test split; "
                "label more or ask for fewer shots"
            )
        patients = Counter(table.patient[row] for row in chosen)
        missing = shots - sum(bool(has[row]) for row in chosen)
        for _ in range(missing):
            candidates = (row for row in available if row not in chosen)
            row = min(candidates, key=lambda row: patients[table.patient[row]])
            chosen.append(row)
            patients[table.patient[row]] += 1
    return np.array(sorted(chosen))


def eligible_rows(table: LabelTable) -> list[int]:
    """Rows of the pool whose patients are not in the test split."""
    tested = set(table.patient[table.split == "test"])
    pool = np.flatnonzero(table.split == "pool")
    return [int(row) for row in pool if table.patient[row] not in tested]


def _priority(table: LabelTable, row: int, seed: int) -> bytes:
    text = f"{seed}\x1f{table.archive[row]}\x1f{table.member[row]}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _rarest_first(table: LabelTable, eligible: list[int]) -> list[int]:
    """Columns by number of eligible images, ties in catalog order; -1 (normal) is the last."""
    counts = table.labels[eligible].sum(axis=0)
    return [*np.argsort(counts, kind="stable").tolist(), -1]
