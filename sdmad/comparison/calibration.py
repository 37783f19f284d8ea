"""How far probabilities can be trusted: calibration error, and coverage of conformal sets.

    table = calibration(settings, "runs/compare/odir")

All from the stored scores of a comparison. Scores assume that a category is as frequent as its
absence, so their odds are multiplied by those of each category's share of the test images first.
"""

import numpy as np
import pandas as pd

from sdmad.comparison.config import CompareConfig
from sdmad.comparison.run import cell_uri, stored_name
from sdmad.comparison.scores import read_possible, read_scores, read_test
from sdmad.evaluation.protocols import LEAST_POSITIVES
from sdmad.fitting.config import parse_numbers
from sdmad.report.decisions import at_prevalence, reliability

QUANTITIES = {
    "error": "calibration error",
    "anomaly_error": "of the anomaly score",
    "with": "coverage, images with the category",
    "without": "coverage, images without",
    "undecided": "undecided",
}


def calibration(config: CompareConfig, output: str) -> pd.DataFrame:
    """One row for each (method, shots, seed, quantity) of a comparison whose cells are at `output`.

    Quantities are means over the categories with at least five test images:

    - `error`: expected calibration error, ten bins of equal width; `anomaly_error`: the same for
      the anomaly score
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
                found = errors(truth, *read_scores(cell))
                possible = read_possible(cell)
                if possible is not None:
                    found |= coverage(truth, possible)
                rows += [(method, shots, seed, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["method", "shots", "seed", "quantity", "value"])


def errors(truth: np.ndarray, scores: np.ndarray, anomaly: np.ndarray) -> dict[str, float]:
    """Calibration errors of scores (N, C) and anomaly scores (N,) against truth (N, C)."""
    known = _known(truth)
    of_categories = _errors(truth[:, known], scores[:, known])
    of_any = _errors(np.asarray(truth.any(axis=1))[:, None], anomaly[:, None])
    return {"error": float(np.mean(of_categories)) if known.any() else np.nan} | {
        "anomaly_error": of_any[0]
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
        "and how often conformal sets hold the true answer. Per cent, mean ± standard deviation "
        "over seeds.\n"
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
    return np.minimum(truth.sum(axis=0), (~truth).sum(axis=0)) >= LEAST_POSITIVES


def _errors(truth: np.ndarray, scores: np.ndarray) -> list[float]:
    shifted = at_prevalence(truth, scores.astype(float))
    return [reliability(truth[:, c], shifted[:, c]).error for c in range(truth.shape[1])]
