"""How far probabilities can be trusted: calibration error, and coverage of conformal sets.

    table = calibration(settings, "runs/compare/odir")

All from the stored scores of a comparison, at the prevalence of the test split. Scores of baselines
assume that a category is as frequent as its absence: their odds are multiplied by those of its
share of the test images. Scores of SD-MAD become those that it gives where these shares are stated
(`sdmad.method.calibration.decided`). A variant that states a prevalence is taken as it is.
"""

import numpy as np
import pandas as pd
import torch

from sdmad.baselines import BASELINES
from sdmad.comparison.config import CompareConfig, Variant
from sdmad.comparison.run import cell_uri, stored_name
from sdmad.comparison.scores import read_possible, read_scores, read_test
from sdmad.evaluation.protocols import LEAST_POSITIVES
from sdmad.fitting.config import parse_numbers
from sdmad.method.calibration import Prevalence, decided
from sdmad.report.decisions import at_prevalence, reliability

EDGE = 1e-6
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
                scores, anomaly = at_shares(truth, *read_scores(cell), _gate(config, method))
                found = errors(truth, scores, anomaly)
                possible = read_possible(cell)
                if possible is not None:
                    found |= coverage(truth, possible)
                rows += [(method, shots, seed, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["method", "shots", "seed", "quantity", "value"])


def _gate(config: CompareConfig, method: str) -> float | None:
    """The gate of SD-MAD or a variant; None of a baseline, NaN if a prevalence is stated."""
    if method in BASELINES:
        return None
    learner = config.variants.get(method, Variant()).changed(config.learner)
    return learner.gate if learner.prevalence == 0.5 else np.nan


def at_shares(
    truth: np.ndarray, scores: np.ndarray, anomaly: np.ndarray, gate: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, C) and anomaly scores (N,) at the shares of `truth` (N, C).

    `gate` is that of SD-MAD, None for a baseline, NaN for scores that are not changed.
    """
    abnormal = np.asarray(truth.any(axis=1))
    if gate is None:
        of_any = at_prevalence(abnormal[:, None], anomaly[:, None].astype(float))[:, 0]
        return at_prevalence(truth, scores.astype(float)), of_any
    if np.isnan(gate):
        return scores, anomaly
    # Undo the gate: what is left are the logits of the heads.
    p_any = np.clip(anomaly.astype(float), EDGE, 1 - EDGE)
    p = np.clip(scores.astype(float) / p_any[:, None] ** gate, EDGE, 1 - EDGE)
    heads = np.log(np.column_stack([p, p_any]) / (1 - np.column_stack([p, p_any])))
    shares = np.clip([*truth.mean(axis=0), abnormal.mean()], EDGE, 1 - EDGE)
    stated = Prevalence(torch.from_numpy(shares[:-1]), float(shares[-1]))
    found = decided(torch.from_numpy(heads), gate, stated)
    return torch.sigmoid(found[0]).numpy(), torch.sigmoid(found[1]).numpy()


def errors(truth: np.ndarray, scores: np.ndarray, anomaly: np.ndarray) -> dict[str, float]:
    """Calibration errors of scores (N, C) and anomaly scores (N,) against truth (N, C)."""
    known = np.flatnonzero(_known(truth))
    of_categories = [reliability(truth[:, c], scores[:, c]).error for c in known]
    return {
        "error": float(np.mean(of_categories)) if len(known) else np.nan,
        "anomaly_error": reliability(np.asarray(truth.any(axis=1)), anomaly).error,
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
