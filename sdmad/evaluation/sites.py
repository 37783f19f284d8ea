"""Score statistics by folder or shard, in bounded memory: is one site different?

    groups = Groups(categories=3)
    groups.add(names, anomaly, found)
    groups.compared()           # at the highest level of folders that tells images apart

An image belongs to its shard, or, as a loose object, to its folder. When there are more than
`MOST` of them, the deepest folders are merged, and last names with the same beginning.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from sdmad.evaluation.statistics import holm

MOST = 2000
BINS = 50
LEAST_IMAGES = 30
LARGE = 0.3
"""Difference of mean anomaly scores, in standard deviations of an image, that is called large."""
LEVEL = 0.05
MOST_APART = 50


@dataclass
class _Sums:
    """Sums over the images of a group."""

    images: int = 0
    failures: int = 0
    total: float = 0.0
    squares: float = 0.0
    found: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def join(self, other: "_Sums") -> None:
        self.images += other.images
        self.failures += other.failures
        self.total += other.total
        self.squares += other.squares
        self.found = self.found + other.found
        self.histogram = self.histogram + other.histogram


@dataclass(frozen=True)
class Group:
    """A folder or shard against all other images.

    `mean` is that of anomaly scores, `quantiles` are those at 10, 25, 50, 75 and 90 %. `shift` is
    the difference of means to the others in standard deviations, `p` Holm's corrected p value.
    `different` is a large difference that is not chance; in large buckets small ones are not chance
    either. `shares` and `others` (C + 1,) are shares of images with each category found, and with
    any finding last, in the group and elsewhere.
    """

    name: str
    images: int
    failures: int
    mean: float
    quantiles: tuple[float, ...]
    shift: float
    p: float
    different: bool
    shares: np.ndarray
    others: np.ndarray

    @property
    def failed(self) -> float:
        return self.failures / max(1, self.images + self.failures)


class Groups:
    """Sums by folder or shard."""

    def __init__(self, categories: int, most: int = MOST) -> None:
        self.categories, self.most = categories, most
        self._sums: dict[str, _Sums] = {}
        # The level to which names are shortened: folders, then letters of a name.
        self._depth = 1 << 30
        self._letters = 1 << 30

    def add(self, names: np.ndarray, anomaly: np.ndarray, found: np.ndarray) -> None:
        """Add images: names of their groups (N,), anomaly scores (N,), findings (N, C)."""
        codes, unique = pd.factorize(names)
        places = np.minimum((anomaly * BINS).astype(int), BINS - 1)
        with_any = np.column_stack([found, found.any(axis=1)])
        for code, name in enumerate(unique):
            rows = codes == code if len(unique) > 1 else slice(None)
            some = anomaly[rows].astype(np.float64)
            sums = _Sums(
                images=len(some),
                total=float(some.sum()),
                squares=float((some**2).sum()),
                found=with_any[rows].sum(axis=0),
                histogram=np.bincount(places[rows], minlength=BINS),
            )
            self._join(str(name), sums)

    def add_failures(self, names: np.ndarray) -> None:
        unique, counts = np.unique(names.astype(str), return_counts=True)
        for name, count in zip(unique.tolist(), counts.tolist(), strict=True):
            self._join(name, _Sums(failures=count))

    def _join(self, name: str, sums: _Sums) -> None:
        empty = np.zeros(self.categories + 1, np.int64)
        sums.found = sums.found if len(sums.found) else empty
        key = self._shortened(name)
        self._sums.setdefault(key, _Sums(found=empty)).join(sums)
        while len(self._sums) > self.most:
            self._merge()

    def _merge(self) -> None:
        deepest = max(map(_parts, self._sums))
        if deepest > 1:
            self._depth = deepest - 1
        else:
            self._letters = max(map(len, self._sums)) - 1
        before, self._sums = self._sums, {}
        for name, sums in before.items():
            key = self._shortened(name)
            if key in self._sums:
                self._sums[key].join(sums)
            else:
                self._sums[key] = sums

    def _shortened(self, name: str) -> str:
        return _cut(name, self._depth)[: self._letters]

    def compared(self, depth: int | None = None) -> list[Group]:
        """Groups at a depth of folders, by default the first that tells images apart, each compared
        with all others; empty if there is one group only."""
        deepest = max(map(_parts, self._sums), default=1)
        merged: dict[str, _Sums] = {}
        for level in [depth] if depth else range(1, deepest + 1):
            merged = {}
            for name, sums in self._sums.items():
                empty = _Sums(found=np.zeros(self.categories + 1, np.int64))
                merged.setdefault(_cut(name, level), empty).join(sums)
            if len(merged) > 1:
                break
        return _compare(merged) if len(merged) > 1 else []


def _parts(name: str) -> int:
    """The number of folders in a path, with that of its last part."""
    return name.rstrip("/").count("/") + 1


def _cut(name: str, depth: int) -> str:
    """The first `depth` parts of a path."""
    parts = name.rstrip("/").split("/")
    return "/".join(parts[:depth]) + "/" if len(parts) > depth else name


def _compare(merged: dict[str, _Sums]) -> list[Group]:
    """Each group against all others that are not different themselves.

    Groups are set apart one by one, the farthest first, so that one odd site does not make the
    others look odd.
    """
    sums = list(merged.values())
    moments = np.array([(s.images, s.total, s.squares) for s in sums], float)
    found = np.stack([s.found for s in sums]).astype(float)
    apart = np.zeros(len(sums), bool)
    while True:
        shift, p = _against(moments, apart)
        far = _different(moments[:, 0], shift, p) & ~apart
        if not far.any() or apart.sum() >= len(sums) - 2 or apart.sum() >= MOST_APART:
            break
        farthest = np.lexsort((moments[:, 0], -np.abs(np.where(far, shift, 0))))[0]
        apart[farthest] = True
    different = _different(moments[:, 0], shift, p)
    if len(sums) == 2 and different.all():
        different = moments[:, 0] <= moments[::-1, 0]
    rest = _rest(found, apart) / np.maximum(_rest(moments[:, :1], apart), 1)
    return [
        Group(
            name=name or "(top level)",
            images=own.images,
            failures=own.failures,
            mean=own.total / own.images if own.images else float("nan"),
            quantiles=_quantiles(own.histogram),
            shift=float(shift[k]),
            p=float(p[k]),
            different=bool(different[k]),
            shares=found[k] / max(own.images, 1),
            others=rest[k],
        )
        for k, (name, own) in enumerate(merged.items())
    ]


def _rest(values: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Sums (G, ...) over the groups that are not apart, each without the group itself."""
    return values[~apart].sum(axis=0) - np.where(apart[:, None], 0, values)


def _against(moments: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shift (G,) of each group, in standard deviations of an image, and corrected p values.

    `moments` (G, 3) are numbers of images, sums and sums of squares.
    """
    others = _rest(moments, apart)
    (n, mean, variance), (m, rest, rest_variance) = (_moments(x) for x in (moments, others))
    error = np.sqrt(variance / np.maximum(n, 1) + rest_variance / np.maximum(m, 1))
    within = np.sqrt((variance * n + rest_variance * m) / np.maximum(n + m, 1))
    difference = np.where((n > 0) & (m > 0), mean - rest, 0.0)
    shift = np.divide(difference, within, out=np.zeros(len(n)), where=within > 0)
    z = np.divide(np.abs(difference), error, out=np.zeros(len(n)), where=error > 0)
    known = (n >= LEAST_IMAGES) & (m >= LEAST_IMAGES)
    return shift, holm(np.where(known, 2 * stats.norm.sf(z), np.nan))


def _different(images: np.ndarray, shift: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.asarray((images >= LEAST_IMAGES) & (np.abs(shift) >= LARGE) & (p <= LEVEL))


def _moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, total, squares = sums.T
    mean = total / np.maximum(count, 1)
    return count, mean, np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0)


def _quantiles(histogram: np.ndarray) -> tuple[float, ...]:
    """10, 25, 50, 75 and 90 % of the values counted in a histogram over 0 to 1, interpolated."""
    if not histogram.sum():
        return (float("nan"),) * 5
    edges = np.linspace(0, 1, len(histogram) + 1)
    shares = np.concatenate([[0], np.cumsum(histogram) / histogram.sum()])
    return tuple(float(np.interp(q, shares, edges)) for q in (0.1, 0.25, 0.5, 0.75, 0.9))
