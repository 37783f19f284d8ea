"""Figures of the report, as inline SVG or PNG."""

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.metrics import roc_curve

from sdmad.evaluation.measure import ScoredTest

INK, MUTED, GRID = "#1c2733", "#667482", "#dfe5ea"
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
    # Fixed, so that the same run gives the same page.
    "svg.hashsalt": "sdmad",
}


def svg(figure: Figure) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]


def png_uri(pixels: np.ndarray) -> str:
    """A data URI of an image (H, W, 3) uint8."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def roc_by_category(test: ScoredTest, titles: list[str]) -> str:
    """Small multiples: ROC of each category against normal images and against other anomalies."""
    count = len(titles)
    columns = min(4, count)
    rows = -(-count // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.55 * columns, 2.6 * rows))
        normal = ~test.truth.any(axis=1)
        for c, title in enumerate(titles):
            axes = figure.add_subplot(rows, columns, c + 1)
            axes.plot([0, 1], [0, 1], color=GRID, lw=1)
            positive = test.truth[:, c]
            groups = (("normal", normal, BLUE), ("others", ~positive & ~normal, ORANGE))
            for name, negative, color in groups:
                keep = positive | negative
                if positive.any() and negative.any():
                    x, y, _ = roc_curve(positive[keep], test.scores[keep, c])
                    axes.plot(x, y, color=color, lw=1.6, label=f"against {name}")
            axes.set(
                title=title, xlim=(0, 1), ylim=(0, 1.01), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1)
            )
            axes.set_aspect("equal")
            if c == 0:
                axes.legend(frameon=False, fontsize=7.5, loc="lower right")
            if c % columns == 0:
                axes.set_ylabel("sensitivity")
            if c + columns >= count:
                axes.set_xlabel("1 - specificity")
        figure.tight_layout()
        return svg(figure)


def seed_spread(values: dict[str, np.ndarray], ensemble: dict[str, float]) -> str:
    """One row for each figure: every seed a dot, the ensemble a diamond."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.42 * len(values) + 0.9))
        axes = figure.add_subplot()
        for row, (name, points) in enumerate(values.items()):
            jitter = np.linspace(-0.16, 0.16, len(points)) if len(points) > 1 else np.zeros(1)
            axes.scatter(
                100 * points, row + jitter, s=22, color=BLUE, alpha=0.65, lw=0, label="one seed"
            )
            mean = 100 * points.mean()
            axes.plot([mean, mean], [row - 0.3, row + 0.3], color=INK, lw=1.4, label="mean")
            axes.scatter(
                100 * ensemble[name],
                row,
                s=34,
                marker="D",
                color=ORANGE,
                zorder=3,
                label="ensemble",
            )
        axes.set(yticks=range(len(values)), yticklabels=list(values), xlabel="per cent")
        axes.invert_yaxis()
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[:3],
            labels[:3],
            frameon=False,
            ncols=3,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            fontsize=8,
        )
        return svg(figure)


def score_histograms(test: ScoredTest, titles: list[str]) -> str:
    """Histograms of the anomaly score and of each category's score, with and without it."""
    panels = [("any anomaly", test.truth.any(axis=1), test.anomaly)]
    panels += [(t, test.truth[:, c], test.scores[:, c]) for c, t in enumerate(titles)]
    columns = 4
    rows = -(-len(panels) // columns)
    bins = np.linspace(0, 1, 26)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.55 * columns, 1.9 * rows))
        for k, (title, positive, score) in enumerate(panels):
            axes = figure.add_subplot(rows, columns, k + 1)
            for mask, color, name in ((~positive, BLUE, "without"), (positive, ORANGE, "with")):
                if mask.any():
                    weights = np.full(int(mask.sum()), 1 / mask.sum())
                    axes.hist(
                        score[mask],
                        bins.tolist(),
                        weights=weights,
                        color=color,
                        alpha=0.55,
                        label=name,
                    )
            axes.axvline(0.5, color=INK, lw=0.8, ls=":")
            axes.set(title=title, xlim=(0, 1), xticks=(0, 0.5, 1), yticks=())
            axes.spines["left"].set_visible(False)
            if k == 0:
                axes.legend(frameon=False, fontsize=7.5)
        figure.tight_layout()
        return svg(figure)


def sign_heatmap(
    similarity: np.ndarray, membership: np.ndarray, signs: list[str], groups: list[str]
) -> str:
    """Mean sign-image similarity (signs, groups) as deviations from each sign's mean.

    `membership` (signs, groups) is framed: the signs that the catalog lists for a group.
    """
    centred = similarity - similarity.mean(axis=1, keepdims=True)
    centred = centred / np.maximum(similarity.std(axis=1, keepdims=True), 1e-6)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 0.72 * len(groups), 1.0 + 0.235 * len(signs)))
        axes = figure.add_subplot()
        shown = axes.imshow(centred, cmap="RdBu_r", vmin=-2.2, vmax=2.2, aspect="auto")
        for s, g in np.argwhere(membership):
            frame = Rectangle((g - 0.46, s - 0.44), 0.92, 0.88, fill=False, ec=INK, lw=1.3)
            axes.add_patch(frame)
        axes.set(yticks=range(len(signs)), yticklabels=[s.replace("_", " ") for s in signs])
        axes.set_xticks(range(len(groups)), groups, rotation=35, ha="right")
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        bar = figure.colorbar(shown, ax=axes, shrink=0.5, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("similarity, standard deviations of the sign", fontsize=8)
        return svg(figure)
