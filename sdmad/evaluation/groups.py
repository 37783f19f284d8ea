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
    `shares` (C + 1,) are shares of images with each category found, and with any finding last.
    """

    name: str
    images: int
    failures: int
    mean: float
    quantiles: tuple[float, ...]
    shift: float
    p: float
    shares: np.ndarray
    others: np.ndarray

    @property
    def different(self) -> bool:
        """A large difference that is not chance; in large buckets small ones are not either."""
        return self.images >= LEAST_IMAGES and abs(self.shift) >= LARGE and self.p <= LEVEL

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
        deepest = max(name.count("/") for name in self._sums)
        if deepest > 0:
            self._depth = deepest
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
        deepest = 1 + max((name.count("/") for name in self._sums), default=0)
        merged: dict[str, _Sums] = {}
        for level in [depth] if depth else range(1, deepest + 1):
            merged = {}
            for name, sums in self._sums.items():
                empty = _Sums(found=np.zeros(self.categories + 1, np.int64))
                merged.setdefault(_cut(name, level), empty).join(sums)
            if len(merged) > 1:
                break
        return _compare(merged) if len(merged) > 1 else []


def _cut(name: str, depth: int) -> str:
    """The first `depth` parts of a path."""
    parts = name.split("/")
    return "/".join(parts[:depth]) + ("/" if len(parts) > depth else "")


def _compare(merged: dict[str, _Sums]) -> list[Group]:
    whole = _Sums(found=np.zeros_like(next(iter(merged.values())).found))
    for sums in merged.values():
        whole.join(sums)
    rows, p = [], []
    for name, own in merged.items():
        n, m = own.images, whole.images - own.images
        mean, variance = _moments(own.total, own.squares, n)
        rest, rest_variance = _moments(whole.total - own.total, whole.squares - own.squares, m)
        error = np.sqrt(variance / max(n, 1) + rest_variance / max(m, 1))
        within = np.sqrt((variance * n + rest_variance * m) / max(n + m, 1))
        z = abs(mean - rest) / error if error > 0 else 0.0
        known = n >= LEAST_IMAGES and m >= LEAST_IMAGES
        p.append(float(2 * stats.norm.sf(z)) if known else np.nan)
        shift = (mean - rest) / within if within > 0 else 0.0
        shares = own.found / max(n, 1), (whole.found - own.found) / max(m, 1)
        rows.append((name, own, mean, shift, *shares))
    corrected = holm(np.array(p))
    return [
        Group(
            name=name or "(top level)",
            images=own.images,
            failures=own.failures,
            mean=mean,
            quantiles=_quantiles(own.histogram),
            shift=shift,
            p=float(value),
            shares=shares,
            others=others,
        )
        for (name, own, mean, shift, shares, others), value in zip(rows, corrected, strict=True)
    ]


def _moments(total: float, squares: float, count: int) -> tuple[float, float]:
    if not count:
        return float("nan"), 0.0
    mean = total / count
    return mean, max(squares / count - mean**2, 0.0)


def _quantiles(histogram: np.ndarray) -> tuple[float, ...]:
    """10, 25, 50, 75 and 90 % of the values counted in a histogram over 0 to 1, interpolated."""
    if not histogram.sum():
        return (float("nan"),) * 5
    edges = np.linspace(0, 1, len(histogram) + 1)
    shares = np.concatenate([[0], np.cumsum(histogram) / histogram.sum()])
    return tuple(float(np.interp(q, shares, edges)) for q in (0.1, 0.25, 0.5, 0.75, 0.9))
