"""Scores of images, as `sdmad.Detector` returns them.

scores = detector.score(paths)
len(scores), scores[0].findings, scores[:10].anomaly
scores.to_pandas().sort_values("anomaly_score")
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from sdmad.words import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SignEvidence:
    """A sign of a finding, and its cosine similarity with the image (mean over seeds)."""

    category: str
    sign: str
    similarity: float


@dataclass(frozen=True)
class FindingEvidence:
    """What carries a finding: the parts of its logit from signs and from the patch probe.

    Means over seeds. A finding that signs do not carry (`sign_logit` at most 0) is one by
    appearance, and names no signs.
    """

    category: str
    sign_logit: float
    probe_logit: float


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image: what `Scores` holds of it, with categories and signs by name."""

    name: str
    anomaly: float
    categories: dict[str, float]
    spread: dict[str, float]
    similarities: dict[str, float]
    findings: list[str]
    uncertain: list[str]
    signs: list[SignEvidence]
    evidence: list[FindingEvidence]

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {self.categories[name]:.2f}" for name in self.findings)
        return f"<{self.name}: anomaly {self.anomaly:.2f}, findings: {found or 'none'}>"


@dataclass(frozen=True, repr=False)
class Scores:
    """Scores of B images, for C categories, M signs and S seeds; all arrays are float32.

    `seeds` (B, C, S) are the probabilities of each seed, `categories` (B, C) their means and
    `spread` (B, C) their standard deviations; `logits` (B, C) are means of their logits. `anomaly`
    (B,) is the anomaly score, in [0, 1] too, `anomaly_seeds` (B, S) that of each seed, and
    `anomaly_logits` (B,) are means of their logits.
    `similarities` (B, M) are cosine similarities of the adapted image and the signs, mean over
    seeds. `findings`, `uncertain`, `signs` and `evidence` have one list for each image. `names` are
    the paths of the images, or their positions where no path is known.

    `scores[3]` is one image as `ImageScores`; a slice, a mask or a list of positions gives
    `Scores`.
    """

    category_names: tuple[str, ...]
    sign_names: tuple[str, ...]
    names: list[str]
    anomaly: np.ndarray
    anomaly_logits: np.ndarray
    anomaly_seeds: np.ndarray
    categories: np.ndarray
    logits: np.ndarray
    spread: np.ndarray
    seeds: np.ndarray
    similarities: np.ndarray
    findings: list[list[str]]
    uncertain: list[list[str]]
    signs: list[list[SignEvidence]]
    evidence: list[list[FindingEvidence]]

    def __len__(self) -> int:
        return len(self.anomaly)

    def __iter__(self) -> Iterator[ImageScores]:
        return map(self._image, range(len(self)))

    @overload
    def __getitem__(self, key: int) -> ImageScores: ...

    @overload
    def __getitem__(self, key: slice | list[int] | list[bool] | np.ndarray) -> "Scores": ...

    def __getitem__(self, key: Any) -> "ImageScores | Scores":
        """One image by its position, or some of them; raises `IndexError` beyond the last."""
        if not isinstance(key, slice | list | np.ndarray):
            return self._image(range(len(self))[operator.index(key)])
        rows = np.arange(len(self))[key if isinstance(key, slice) else _positions(key)]
        return Scores(**{f.name: self._rows(f.name, rows) for f in fields(self)})

    def _rows(self, name: str, rows: np.ndarray) -> Any:
        value = getattr(self, name)
        if isinstance(value, list):
            return [value[row] for row in rows]
        return value[rows] if isinstance(value, np.ndarray) else value

    def _image(self, row: int) -> ImageScores:
        def named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
            return dict(zip(names, values[row].tolist(), strict=True))

        return ImageScores(
            name=self.names[row],
            anomaly=float(self.anomaly[row]),
            categories=named(self.category_names, self.categories),
            spread=named(self.category_names, self.spread),
            similarities=named(self.sign_names, self.similarities),
            findings=self.findings[row],
            uncertain=self.uncertain[row],
            signs=self.signs[row],
            evidence=self.evidence[row],
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One row an image, by name, with the columns of a score table (docs/queries.md).

        Columns: `anomaly_score`, `anomaly_logit`; `score_<category>`, `spread_<category>`,
        `logit_<category>`; `findings`, `uncertain`, `signs` and `evidence`, lists whose entries
        are text or dicts.
        """
        import pandas as pd

        columns: dict[str, Any] = {"anomaly_score": self.anomaly}
        columns["anomaly_logit"] = self.anomaly_logits
        for c, name in enumerate(self.category_names):
            columns[f"score_{name}"] = self.categories[:, c]
            columns[f"spread_{name}"] = self.spread[:, c]
            columns[f"logit_{name}"] = self.logits[:, c]
        columns |= {"findings": self.findings, "uncertain": self.uncertain}
        columns["signs"] = [[vars(one) for one in row] for row in self.signs]
        columns["evidence"] = [[vars(one) for one in row] for row in self.evidence]
        return pd.DataFrame(columns, index=pd.Index(self.names, name="image"))

    def __repr__(self) -> str:
        images = counted(len(self), "image")
        with_finding = sum(map(bool, self.findings))
        return (
            f"<Scores of {images}, {with_finding:,} with findings; "
            f"{len(self.category_names)} categories, {self.seeds.shape[-1]} seeds>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: probabilities and findings, at most 20 rows."""
        import pandas as pd

        shown = self[:20]
        table = pd.DataFrame(shown.categories, shown.names, self.category_names).round(2)
        table.insert(0, "anomaly", shown.anomaly.round(2))
        table["findings"] = [", ".join(found) for found in shown.findings]
        return f"<p>{repr(self)[1:-1]}</p>{table.to_html()}"


def _positions(key: list[int] | list[bool] | np.ndarray) -> np.ndarray:
    """A mask or positions for NumPy, which would read an empty list as one of floats."""
    array = np.asarray(key)
    return array if array.size else array.astype(np.intp)


def concatenate(parts: list[Scores]) -> Scores:
    """Join the scores of several batches."""
    joined: dict[str, Any] = {}
    for field in fields(Scores):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            joined[field.name] = np.concatenate(values)
        elif isinstance(values[0], list):
            joined[field.name] = [row for value in values for row in value]
        else:
            joined[field.name] = values[0]
    return Scores(**joined)
