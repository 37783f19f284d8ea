"""How far probabilities can be trusted: calibration error, and coverage of conformal sets.

    table = calibration(settings, "runs/compare/odir")

All from the stored scores of a comparison, at the prevalence of the test split. Scores of baselines
assume that a category is as frequent as its absence: their odds are multiplied by those of its
share of the test images. Scores of SD-MAD are those that it gives where these shares are stated
(`sdmad.comparison.cell.at_shares`). A variant that states a prevalence is taken as it is.

A calibration error is never 0, because a bin has few images: right probabilities have one by
chance, too (Broecker and Smith, *Increasing the reliability of reliability diagrams*, 2007).
"""

import numpy as np
import pandas as pd

from sdmad.comparison.config import CompareConfig
from sdmad.comparison.run import cell_uri, stored_name
from sdmad.comparison.scores import read_possible, read_scores, read_stated, read_test
from sdmad.evaluation.protocols import LEAST_POSITIVES
from sdmad.fitting.config import parse_numbers
from sdmad.report.decisions import at_prevalence, reliability

QUANTITIES = {
    "error": "calibration error",
    "chance": "by chance",
    "anomaly_error": "of the anomaly score",
    "anomaly_chance": "by chance",
    "with": "coverage, images with the category",
    "without": "coverage, images without",
    "undecided": "undecided",
}
DRAWS = 20


def calibration(config: CompareConfig, output: str) -> pd.DataFrame:
    """One row for each (method, shots, seed, quantity) of a comparison whose cells are at `output`.

    Quantities are means over the categories with at least five test images:

    - `error`: expected calibration error, ten bins of equal width; `anomaly_error`: the same for
      the anomaly score
    - `chance`, `anomaly_chance`: the same if the probabilities were right, the mean over `DRAWS`
      draws of labels from them
    - `with`, `without`: share of the test images with, and without, a category whose conformal set
      holds the true answer; `undecided`: share whose set holds both answers or none. Only of SD-MAD
      and its variants.
    """
    truth, _ = read_test(output)
    rows = []
    for shots in config.shots:
        for method in config.names:
            for seed in parse_numbers(config.seeds, "seeds"):
                cell = cell_uri(output, stored_name(config, method), shots, seed)
                stated = read_stated(cell) or at_shares(truth, *read_scores(cell))
                found = errors(truth, *stated) | by_chance(truth, *stated)
                possible = read_possible(cell)
                if possible is not None:
                    found |= coverage(truth, possible)
                rows += [(method, shots, seed, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["method", "shots", "seed", "quantity", "value"])


def at_shares(
    truth: np.ndarray, scores: np.ndarray, anomaly: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, C) and anomaly scores (N,) of a baseline at the shares of `truth` (N, C)."""
    abnormal = np.asarray(truth.any(axis=1))
    of_any = at_prevalence(abnormal[:, None], anomaly[:, None].astype(float))[:, 0]
    return at_prevalence(truth, scores.astype(float)), of_any


def errors(truth: np.ndarray, scores: np.ndarray, anomaly: np.ndarray) -> dict[str, float]:
    """Calibration errors of scores (N, C) and anomaly scores (N,) against truth (N, C)."""
    known = np.flatnonzero(_known(truth))
    of_categories = [reliability(truth[:, c], scores[:, c]).error for c in known]
    return {
        "error": float(np.mean(of_categories)) if len(known) else np.nan,
        "anomaly_error": reliability(np.asarray(truth.any(axis=1)), anomaly).error,
    }


def by_chance(truth: np.ndarray, scores: np.ndarray, anomaly: np.ndarray) -> dict[str, float]:
    """The errors of scores (N, C) and anomaly scores (N,) if they were right, for the same
    categories as `errors`."""
    random = np.random.default_rng(0)
    known = scores[:, _known(truth)]

    def error(probabilities: np.ndarray) -> float:
        return reliability(random.random(len(probabilities)) < probabilities, probabilities).error

    of_categories = [error(one) for one in known.T for _ in range(DRAWS)]
    return {
        "chance": float(np.mean(of_categories)) if of_categories else np.nan,
        "anomaly_chance": float(np.mean([error(anomaly) for _ in range(DRAWS)])),
    }


def coverage(truth: np.ndarray, possible: np.ndarray) -> dict[str, float]:
    """Coverage of the conformal sets `possible` (N, C, 2), which say for each image and category
    whether "with it" and "without it" are possible."""
    shares = []
    for c in np.flatnonzero(_known(truth)):
        held, own = possible[:, c], truth[:, c]
        undecided = (held[:, 0] == held[:, 1]).mean()
        shares.append((held[own, 0].mean(), held[~own, 1].mean(), undecided))
    means = np.mean(shares, axis=0) if shares else [np.nan] * 3
    return dict(zip(("with", "without", "undecided"), map(float, means), strict=True))


def tables(found: pd.DataFrame) -> str:
    """Markdown: the quantities of each method, a table for each number of shots."""
    parts = [
        "Calibration error at the prevalence of the test split (mean over categories, ten bins), "
        "what it would be by chance if the probabilities were right, and how often conformal sets "
        "hold the true answer; undecided are those that hold both answers or neither. Per cent, "
        "mean ± standard deviation over seeds.\n"
    ]
    for shots, group in found.groupby("shots", sort=True):
        parts.append(f"**{shots} {'shot' if shots == 1 else 'shots'}**\n")
        parts.append(f"| method | {' | '.join(QUANTITIES.values())} |")
        parts.append("|---" * (len(QUANTITIES) + 1) + "|")
        for method, rows in group.groupby("method", sort=False):
            by_quantity = rows.groupby("quantity").value
            cells = [
                _shown(by_quantity.get_group(name)) if name in by_quantity.groups else "-"
                for name in QUANTITIES
            ]
            parts.append(f"| {method} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _shown(values: pd.Series) -> str:
    if len(values) < 2:
        return f"{100 * values.mean():.1f}"
    return f"{100 * values.mean():.1f} ± {100 * values.std():.1f}"


def _known(truth: np.ndarray) -> np.ndarray:
    """The categories (C,) with enough test images on both sides."""
    return np.asarray(np.minimum(truth.sum(0), (~truth).sum(0)) >= LEAST_POSITIVES)
