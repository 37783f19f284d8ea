"""Plots of the report, as inline SVG or PNG.

Small multiples are one SVG for each panel, all of the same size; the page puts as many in a row as
fit. Titles are set by the page, which escapes them.
"""

import base64
import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_curve

from sdmad.evaluation.measure import ScoredTest
from sdmad.evaluation.protocols import LEAST_POSITIVES
from sdmad.method.threshold import FINDING_THRESHOLD
from sdmad.report.decisions import at_prevalence, reliability

INK, MUTED, GRID = "#1c2733", "#5b6975", "#dfe5ea"
BLUE, ORANGE = "#2166ac", "#d6604d"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "svg.fonttype": "none",
}
UNIT_TICKS: Any = {"xlim": (0, 1), "xticks": (0, 0.5, 1), "xticklabels": ("0", ".5", "1")}
UNIT_SQUARE: Any = {
    **UNIT_TICKS,
    "ylim": (0, 1.01),
    "yticks": (0, 0.5, 1),
    "yticklabels": ("0", ".5", "1"),
}


@dataclass(frozen=True)
class Panel:
    """One panel of a small multiple; `blue` and `orange` are values to print in these colours."""

    title: str
    svg: str
    blue: str = ""
    orange: str = ""


def svg(figure: Figure, name: str, tight: bool = False) -> str:
    """The plot as an SVG element; `name` must be unique on the page.

    Identifiers inside depend only on `name` and the drawing, so the same run gives the same page
    and no two plots share an identifier.
    """
    sink = io.StringIO()
    box: Any = "tight" if tight else None
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(sink, format="svg", bbox_inches=box, metadata={"Date": None})
    text = sink.getvalue()
    return re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])


def png_uri(pixels: np.ndarray) -> str:
    """A data URI of an image (H, W, 3) uint8."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def jpeg_uri(pixels: np.ndarray) -> str:
    """A data URI of an image (H, W, 3) uint8 as JPEG, an eighth of the size of PNG."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def unit_panel(height: float) -> tuple[Figure, Axes]:
    """An empty panel, 1.9 inches wide and `height` inches high, with room for axis labels."""
    figure = Figure(figsize=(1.9, height))
    axes = figure.add_axes((0.21, 0.4 / height, 0.74, 1 - 0.47 / height))
    axes.xaxis.labelpad = axes.yaxis.labelpad = 1
    return figure, axes


def roc_by_category(test: ScoredTest, titles: list[str]) -> list[Panel]:
    """ROC curves of each category: against normal images, and against other anomalies."""
    normal = ~test.truth.any(axis=1)
    panels = []
    with mpl.rc_context(STYLE):
        for c, title in enumerate(titles):
            figure, axes = unit_panel(1.9)
            axes.plot([0, 1], [0, 1], color=GRID, lw=1)
            positive = test.truth[:, c]
            for negative, color in ((normal, BLUE), (~positive & ~normal, ORANGE)):
                keep = positive | negative
                if positive.any() and negative.any():
                    x, y, _ = roc_curve(positive[keep], test.scores[keep, c])
                    axes.plot(x, y, color=color, lw=1.6)
            axes.set(xlabel="1 - specificity", ylabel="sensitivity", **UNIT_SQUARE)
            panels.append(Panel(title, svg(figure, f"roc{c}")))
    return panels


def seed_spread(values: dict[str, np.ndarray], ensemble: dict[str, float]) -> str:
    """One row for each metric: seeds as dots, their mean as a bar, the ensemble as a diamond."""
    with mpl.rc_context(STYLE):
        values = {name: points for name, points in values.items() if np.isfinite(points).all()}
        figure = Figure(figsize=(3.4, 0.36 * len(values) + 0.7))
        axes = figure.add_subplot()
        for row, (name, points) in enumerate(values.items()):
            jitter = np.linspace(-0.16, 0.16, len(points)) if len(points) > 1 else np.zeros(1)
            axes.scatter(100 * points, row + jitter, s=16, color=BLUE, alpha=0.65, lw=0)
            mean = 100 * points.mean()
            axes.plot([mean, mean], [row - 0.32, row + 0.32], color=INK, lw=1.4)
            axes.scatter(100 * ensemble[name], row, s=24, marker="D", color=ORANGE, zorder=3)
        names = [name.replace(" against ", "\nagainst ") for name in values]
        axes.set(yticks=range(len(values)), yticklabels=names, xlabel="per cent")
        axes.invert_yaxis()
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
        return svg(figure, "spread", tight=True)


def calibration_curves(test: ScoredTest, titles: list[str]) -> list[Panel]:
    """Reliability diagrams: several categories pooled, then each one that test images have.

    Blue: probabilities as scored; orange: corrected for the prevalence in these images, unless the
    scores are for a stated one. Larger points stand for more images; bins with fewer than five are
    not drawn. The printed values are expected calibration errors over all bins, in per cent.
    """
    drawn_scores = [(test.scores, BLUE)]
    if not test.states_prevalence:
        drawn_scores.append((at_prevalence(test.truth, test.scores), ORANGE))
    some = [c for c in range(len(titles)) if test.truth[:, c].any()]
    columns = [(titles[c], slice(c, c + 1)) for c in some]
    if len(titles) > 1:
        columns.insert(0, ("all categories", slice(None)))
    panels = []
    with mpl.rc_context(STYLE):
        for k, (title, column) in enumerate(columns):
            figure, axes = unit_panel(1.9)
            axes.plot([0, 1], [0, 1], color=GRID, lw=1)
            truth = test.truth[:, column].ravel()
            errors = []
            for scores, color in drawn_scores:
                curve = reliability(truth, scores[:, column].ravel())
                drawn = curve.images >= LEAST_POSITIVES
                x, y = curve.predicted[drawn], curve.observed[drawn]
                axes.plot(x, y, color=color, lw=1.2)
                area = 4 + 50 * np.sqrt(curve.images / curve.images.sum())[drawn]
                axes.scatter(x, y, s=area, color=color, lw=0, clip_on=False)
                errors.append(f"{100 * curve.error:.1f}")
            axes.set(xlabel="probability", ylabel="observed share", **UNIT_SQUARE)
            panels.append(Panel(title, svg(figure, f"calibration{k}"), *errors))
    return panels


def score_histograms(test: ScoredTest, titles: list[str]) -> list[Panel]:
    """Histograms of each category's score, for images with and without, and of the anomaly score
    where there are several categories."""
    drawn = [
        (t, test.truth[:, c], test.scores[:, c], float(test.thresholds[c]))
        for c, t in enumerate(titles)
    ]
    if len(titles) > 1:
        abnormal = np.asarray(test.truth.any(axis=1))
        threshold = np.nan if test.decided else FINDING_THRESHOLD
        drawn.insert(0, ("any anomaly", abnormal, test.anomaly, threshold))
    bins = np.linspace(0, 1, 26).tolist()
    panels = []
    with mpl.rc_context(STYLE):
        for k, (title, positive, score, threshold) in enumerate(drawn):
            figure, axes = unit_panel(1.3)
            for mask, color in ((~positive, BLUE), (positive, ORANGE)):
                if mask.any():
                    weights = np.full(int(mask.sum()), 1 / mask.sum())
                    axes.hist(score[mask], bins, weights=weights, color=color, alpha=0.55)
            if np.isfinite(threshold):
                axes.axvline(threshold, color=INK, lw=0.8, ls=":")
            axes.set(xlabel="score", yticks=(), **UNIT_TICKS)
            axes.spines["left"].set_visible(False)
            panels.append(Panel(title, svg(figure, f"histogram{k}")))
    return panels
