"""Images for the report: examples with their findings, and groups for the sign heatmap."""

from dataclasses import dataclass

import numpy as np

from sdmad.archive.selected import decode_members
from sdmad.detector import Detector
from sdmad.evaluation.measure import ScoredTest
from sdmad.report.figures import png_uri

IMAGES_PER_GROUP = 16
EXAMPLES = 12


@dataclass(frozen=True)
class Example:
    """One image of the gallery; `verdict` is right, partly right, missed or false alarm."""

    picture: str
    name: str
    anomaly: float
    truth: list[str]
    findings: list[tuple[str, float, float]]
    uncertain: list[str]
    signs: list[tuple[str, str, float]]
    verdict: str


def choose_examples(test: ScoredTest) -> np.ndarray:
    """Rows of images that tell most: images with several categories, each category, normal ones,
    and the clearest mistakes, at most `EXAMPLES`."""
    truth, found = test.truth, test.scores > 0.5
    wrong = (truth != found).any(axis=1)
    several = np.flatnonzero((truth.sum(axis=1) > 1) & found.any(axis=1))
    chosen: list[int] = several[:2].tolist()
    for c in range(truth.shape[1]):
        right = np.flatnonzero(truth[:, c] & ~wrong)
        chosen += right[:1].tolist()
    chosen += np.flatnonzero(~truth.any(axis=1) & ~wrong)[:1].tolist()
    confidence = np.abs(test.scores - 0.5).max(axis=1)
    mistakes = np.flatnonzero(wrong)
    chosen += mistakes[np.argsort(-confidence[mistakes], kind="stable")][:4].tolist()
    return np.array(list(dict.fromkeys(chosen))[:EXAMPLES], int)


def read_pixels(test: ScoredTest, rows: np.ndarray, detector: Detector) -> dict[int, np.ndarray]:
    """Pixels at the backbone's size of the images at `rows`; unreadable ones are left out."""
    names = [(str(test.table.archive[r]), str(test.table.member[r])) for r in rows]
    found, _ = decode_members(test.metadata["archive"], names, detector.spec)
    return {int(row): found[name] for row, name in zip(rows, names, strict=True) if name in found}


def gallery(test: ScoredTest, pixels: dict[int, np.ndarray]) -> list[Example]:
    """Examples in words, for the rows that have pixels."""
    return [_example(test, row, pixels[row]) for row in choose_examples(test) if row in pixels]


def _example(test: ScoredTest, row: int, pixels: np.ndarray) -> Example:
    names = test.table.categories
    truth = [names[c] for c in np.flatnonzero(test.truth[row])]
    record = test.rows.slice(row, 1).to_pylist()[0]
    findings = [
        (name, record[f"score_{name}"], record[f"spread_{name}"]) for name in record["findings"]
    ]
    signs = [(e["category"], e["sign"], e["similarity"]) for e in record["signs"]]
    return Example(
        picture=png_uri(pixels),
        name="/".join(filter(None, (record["archive"], record["member"]))),
        anomaly=record["anomaly_score"],
        truth=truth,
        findings=findings,
        uncertain=record["uncertain"],
        signs=signs,
        verdict=_verdict(set(truth), set(record["findings"])),
    )


def _verdict(truth: set[str], found: set[str]) -> str:
    if truth == found:
        return "right"
    if not truth:
        return "false alarm"
    return "partly right" if truth & found else "missed"


def heatmap_rows(test: ScoredTest) -> dict[str, np.ndarray]:
    """For normal and each category, rows of images that show it (alone, where there are enough)."""
    truth = test.truth
    groups = {"normal": np.flatnonzero(~truth.any(axis=1))[:IMAGES_PER_GROUP]}
    for c, name in enumerate(test.table.categories):
        alone = np.flatnonzero(truth[:, c] & (truth.sum(axis=1) == 1))
        mixed = np.flatnonzero(truth[:, c] & (truth.sum(axis=1) > 1))
        groups[name] = np.concatenate([alone, mixed])[:IMAGES_PER_GROUP]
    return groups


def mean_similarities(
    detector: Detector, groups: dict[str, np.ndarray], pixels: dict[int, np.ndarray]
) -> dict[str, np.ndarray]:
    """Mean similarity of each sign (M,) with the images of every group that has any."""
    means = {}
    for name, rows in groups.items():
        images = [pixels[int(r)] for r in rows if int(r) in pixels]
        if images:
            means[name] = detector.score_pixels(np.stack(images)).similarities.mean(axis=0)
    return means
