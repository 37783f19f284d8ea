"""The images that the report shows: example cases, and groups for the sign heatmap."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdmad.archive.selected import decode_members
from sdmad.detector import Detector
from sdmad.evaluation.measure import ScoredTest
from sdmad.report.plots import png_uri

IMAGES_PER_GROUP = 16
CLEAR_RIGHT, CLEAR_WRONG, UNCERTAIN = 8, 4, 6


@dataclass(frozen=True)
class Example:
    """One image of a gallery.

    `picture` is a data URI, empty for an image that could not be read. `findings` and `uncertain`
    hold (category, score, spread over seeds), `signs` hold (category, sign, similarity), and
    `evidence` has what signs add to the logit of each finding that the detector made. `verdict` is
    right, partly right, wrong category, missed or false alarm; without labels `truth` is None and
    `verdict` empty.
    """

    picture: str
    name: str
    anomaly: float
    truth: list[str] | None
    findings: list[tuple[str, float, float]]
    uncertain: list[tuple[str, float, float]]
    signs: list[tuple[str, str, float]]
    verdict: str
    evidence: dict[str, float] = field(default_factory=dict)

    @property
    def by_appearance(self) -> list[str]:
        """The findings that the patch probe made: signs do not add to their logit."""
        return [name for name, *_ in self.findings if self.evidence.get(name, 1.0) <= 0]


def clear_rows(test: ScoredTest) -> np.ndarray:
    """Rows of the most confident images, without those that have an uncertain category.

    First up to eight correct ones: two with several categories, one normal, one for each category.
    Then up to four mistakes. Confidence is a score's distance from the finding threshold: in
    correct images the smallest distance, in mistakes the largest among the wrong scores.
    """
    truth = test.truth
    wrong = truth != test.found
    mistaken = wrong.any(axis=1)
    distance = np.abs(test.scores - test.thresholds)
    clearness = np.where(mistaken, (distance * wrong).max(axis=1), distance.min(axis=1))

    sure = np.array([not names for names in test.rows["uncertain"].to_pylist()], bool)
    order = np.argsort(-clearness, kind="stable")

    def clearest(mask: np.ndarray, count: int) -> list[int]:
        return order[(mask & sure)[order]][:count].tolist()

    categories = truth.sum(axis=1)
    right = clearest(~mistaken & (categories > 1), 2) + clearest(~mistaken & (categories == 0), 1)
    for c in range(truth.shape[1]):
        right += clearest(~mistaken & truth[:, c] & (categories == 1), 1)
    return np.array(right[:CLEAR_RIGHT] + clearest(mistaken, CLEAR_WRONG), int)


def uncertain_rows(test: ScoredTest, shown: np.ndarray) -> np.ndarray:
    """Up to six rows of images with an uncertain category, nearest to the finding threshold first;
    rows in `shown` are left out."""
    distance = np.abs(test.scores - test.thresholds)
    names = test.table.categories
    nearest = np.array(
        [
            min((float(distance[row, names.index(name)]) for name in doubts), default=np.inf)
            for row, doubts in enumerate(test.rows["uncertain"].to_pylist())
        ]
    )
    nearest[shown] = np.inf
    order = np.argsort(nearest, kind="stable")
    return order[np.isfinite(nearest[order])][:UNCERTAIN]


def heatmap_rows(test: ScoredTest) -> dict[str, np.ndarray]:
    """Up to 16 rows of images for normal and for each category; images with that category alone
    come first."""
    truth = test.truth
    groups = {"normal": np.flatnonzero(~truth.any(axis=1))[:IMAGES_PER_GROUP]}
    for c, name in enumerate(test.table.categories):
        alone = np.flatnonzero(truth[:, c] & (truth.sum(axis=1) == 1))
        mixed = np.flatnonzero(truth[:, c] & (truth.sum(axis=1) > 1))
        groups[name] = np.concatenate([alone, mixed])[:IMAGES_PER_GROUP]
    return groups


def read_pixels(test: ScoredTest, rows: np.ndarray, detector: Detector) -> dict[int, np.ndarray]:
    """Pixels of the images at `rows`, at the backbone's size; unreadable images are left out."""
    names = [(str(test.table.archive[r]), str(test.table.member[r])) for r in rows]
    found, _ = decode_members(test.metadata["archive"], names, detector.spec)
    return {int(row): found[name] for row, name in zip(rows, names, strict=True) if name in found}


def similarities(
    test: ScoredTest, detector: Detector, pixels: dict[int, np.ndarray], rows: Iterable[int]
) -> np.ndarray:
    """Similarities (N, M) of the images at `rows` to all signs; NaN in the other rows and for
    images without pixels."""
    found = np.full((len(test.table), len(detector.catalog.signs)), np.nan, np.float32)
    known = sorted({int(row) for row in rows} & pixels.keys())
    at_once = detector.backbone.images_at_once
    for start in range(0, len(known), at_once):
        some = known[start : start + at_once]
        found[some] = detector.score_pixels(np.stack([pixels[r] for r in some])).similarities
    return found


def gallery(test: ScoredTest, rows: np.ndarray, pixels: dict[int, np.ndarray]) -> list[Example]:
    """Examples for those `rows` that have pixels."""
    return [_example(test, row, pixels[row]) for row in rows.tolist() if row in pixels]


def _example(test: ScoredTest, row: int, pixels: np.ndarray) -> Example:
    names = test.table.categories
    truth = [names[c] for c in np.flatnonzero(test.truth[row])]
    record = test.rows.slice(row, 1).to_pylist()[0]
    return example(record, truth, png_uri(pixels), several=len(test.seed_names) > 1)


def example(
    record: dict[str, Any], truth: list[str] | None, picture: str, several: bool = True
) -> Example:
    """The example of a score row, with its true categories if these are known.

    `several`: the detector has several seeds, so that a spread means something.
    """
    findings, uncertain = (
        [
            (name, record[f"score_{name}"], record[f"spread_{name}"] if several else float("nan"))
            for name in record[column]
        ]
        for column in ("findings", "uncertain")
    )
    return Example(
        picture=picture,
        name="/".join(filter(None, (record["archive"], record["member"]))),
        anomaly=record["anomaly_score"],
        truth=truth,
        findings=findings,
        uncertain=uncertain,
        signs=[(e["category"], e["sign"], e["similarity"]) for e in record["signs"]],
        evidence={e["category"]: e["sign_logit"] for e in record["evidence"]},
        verdict="" if truth is None else _verdict(set(truth), set(record["findings"])),
    )


def _verdict(truth: set[str], found: set[str]) -> str:
    if truth == found:
        return "right"
    if not truth:
        return "false alarm"
    if not found:
        return "missed"
    return "partly right" if truth & found else "wrong category"
