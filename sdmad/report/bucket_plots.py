"""Plots of a bucket without labels: histograms from counts, and groups side by side."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from sdmad.evaluation.overview import Overview
from sdmad.evaluation.sites import Group
from sdmad.report.plots import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    STYLE,
    UNIT_TICKS,
    Panel,
    svg,
    unit_panel,
)

MOST_DRAWN = 20


def histograms(overview: Overview, titles: list[str]) -> list[Panel]:
    """Histograms of each category's score, and of the anomaly score where there are several
    categories; counts on a root scale."""
    thresholds, counts = overview.thresholds.tolist(), [*overview.scores]
    names = list(titles)
    if len(titles) > 1:
        thresholds.insert(0, np.nan)
        counts.insert(0, overview.anomaly)
        names.insert(0, "anomaly score")
    panels = []
    with mpl.rc_context(STYLE):
        for k, (title, values, threshold) in enumerate(zip(names, counts, thresholds, strict=True)):
            figure, axes = unit_panel(1.3)
            edges = np.linspace(0, 1, len(values) + 1)
            axes.stairs(np.sqrt(values), edges, fill=True, color=BLUE, alpha=0.7)
            if np.isfinite(threshold):
                axes.axvline(threshold, color=INK, lw=0.8, ls=":")
            axes.set(xlabel="score", yticks=(), **UNIT_TICKS)
            axes.spines["left"].set_visible(False)
            panels.append(Panel(title, svg(figure, f"bucket{k}")))
    return panels


def group_chart(groups: list[Group]) -> str:
    """Anomaly scores by group: line from 10 to 90 %, bar from 25 to 75 %, median as a dot.

    Groups that are different are orange.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.27 * len(groups) + 0.6))
        axes = figure.add_subplot()
        for row, group in enumerate(groups):
            color = ORANGE if group.different else BLUE
            q10, q25, q50, q75, q90 = group.quantiles
            axes.plot([q10, q90], [row, row], color=color, lw=1, alpha=0.8)
            axes.plot([q25, q75], [row, row], color=color, lw=5, alpha=0.45, solid_capstyle="butt")
            axes.scatter(q50, row, s=16, color=color, zorder=3)
        names = [shortened(group.name) for group in groups]
        axes.set(yticks=range(len(groups)), xlabel="anomaly score", xlim=(0, 1))
        axes.set_yticks(range(len(groups)), names, color=MUTED, parse_math=False)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
        return svg(figure, "groups", tight=True)


def shortened(name: str, letters: int = 34) -> str:
    """A name without its middle, where it is long."""
    half = letters // 2
    return name if len(name) <= letters else f"{name[: half - 1]}…{name[-half:]}"
