"""Plots of a comparison: metrics over shots, or over one setting (as in the paper's Figure 3)."""

import io
import re
from collections import defaultdict
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from sdmad.comparison.summary import num_comparisons
from sdmad.evaluation.measure import HEADLINES
from sdmad.evaluation.statistics import BETTER, NOT_DISTINGUISHABLE, WORSE
from sdmad.report.plots import BLUE, GRID, INK, MUTED, STYLE

SHOWN = (
    ("anomaly detection", "auroc"),
    ("category discrimination", "macro_others"),
    ("multi-label prediction", "hamming_score"),
    ("multi-label prediction", "subset_accuracy"),
)
SHADES = {BETTER: "#b9d3ea", NOT_DISTINGUISHABLE: "#eef1f4", WORSE: "#f3c6bb"}
_SWEPT = re.compile(r"(.+)=(\d+(?:\.\d+)?)$")


def over_shots(results: pd.DataFrame, reference: str) -> str:
    """SVG of four metrics over shots: means over seeds, for the reference also standard deviations.

    `results` has a row for each (method, shots, seed, protocol, metric) with `value`.
    """
    others = [name for name in dict.fromkeys(results.method) if name != reference]
    colours = mpl.colormaps["tab10"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9))
        for k, key in enumerate(SHOWN):
            axes = figure.add_subplot(1, len(SHOWN), k + 1)
            rows = results[(results.protocol == key[0]) & (results.metric == key[1])]
            for n, method in enumerate(others):
                mean = 100 * rows[rows.method == method].groupby("shots").value.mean()
                style = ("-", "--")[n // 10 % 2]
                axes.plot(mean.index, mean, style, color=colours(n % 10), lw=1.1, label=method)
            _reference(axes, rows[rows.method == reference], "shots", reference)
            axes.set_xscale("log", base=2)
            shots = sorted(results.shots.unique())
            axes.set_xticks(shots, [str(s) for s in shots])
            axes.minorticks_off()
            axes.set(title=HEADLINES[key], xlabel="shots")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="lower center", ncols=5, frameon=False, fontsize=8)
        figure.subplots_adjust(left=0.05, right=0.99, top=0.9, bottom=0.36, wspace=0.28)
        return _svg(figure)


def verdicts(summary: pd.DataFrame, reference: str) -> str:
    """SVG of the verdict on the reference against each method, for each metric and shots.

    `summary` is that of `summarise_methods`. The numbers are differences in points.
    """
    rows = summary[summary.method != reference]
    methods, shots = list(dict.fromkeys(rows.method)), sorted(rows.shots.unique())
    across = len(HEADLINES) // 2
    height = 0.2 * len(methods)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2 * height + 1.5))
        for k, (key, name) in enumerate(HEADLINES.items()):
            axes = figure.add_subplot(2, across, k + 1)
            some = rows[(rows.protocol == key[0]) & (rows.metric == key[1])]
            columns = (some.shots, some.method, some.verdict, some.difference)
            for number, method, verdict, difference in zip(*columns, strict=True):
                x, y = shots.index(number), methods.index(method)
                axes.add_patch(_tile(x, y, SHADES[verdict]))
                if np.isfinite(difference):
                    axes.text(x, y, _points(difference), ha="center", va="center", size=6)
            axes.set(xlim=(-0.5, len(shots) - 0.5), ylim=(len(methods) - 0.5, -0.5))
            axes.set_xticks(range(len(shots)), [str(s) for s in shots], size=7)
            axes.set_yticks(range(len(methods)), methods if k % across == 0 else [], size=7)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.set_title(name, size=8)
            if k >= across:
                axes.set_xlabel("shots", size=8)
        handles = [
            Patch(color=shade, label=f"{reference} is {verdict}")
            for verdict, shade in SHADES.items()
        ]
        title = f"corrected for {num_comparisons(summary)} comparisons"
        legend: Any = {"loc": "lower center", "ncols": 3, "frameon": False, "fontsize": 8}
        figure.legend(handles=handles, title=title, title_fontsize=8, **legend)
        inner = {"bottom": 0.85 / figure.get_figheight(), "top": 1 - 0.25 / figure.get_figheight()}
        figure.subplots_adjust(left=0.17, right=0.99, wspace=0.06, hspace=0.3, **inner)
        return _svg(figure)


def _tile(x: int, y: int, shade: str) -> Rectangle:
    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=shade, lw=0)


def _points(difference: float) -> str:
    """A difference in points, without a sign if it rounds to 0."""
    rounded = round(100 * difference)
    return f"{rounded:+d}" if rounded else "0"


def sweeps(results: pd.DataFrame) -> dict[str, str]:
    """SVG of metrics over each setting that variants sweep, by the setting's name.

    A sweep is two or more variants called `<setting>=<number>`. Shown are mean and standard
    deviation over seeds and shots.
    """
    swept: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for method in dict.fromkeys(results.method):
        if match := _SWEPT.match(str(method)):
            swept[match[1]][str(method)] = float(match[2])
    return {name: _sweep(results, name, at) for name, at in swept.items() if len(at) > 1}


def _sweep(results: pd.DataFrame, name: str, at: dict[str, float]) -> str:
    rows = results[results.method.isin(list(at))]
    rows = rows.assign(at=rows.method.map(at))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.3))
        for k, key in enumerate(SHOWN):
            axes = figure.add_subplot(1, len(SHOWN), k + 1)
            some = rows[(rows.protocol == key[0]) & (rows.metric == key[1])]
            _reference(axes, some, "at", name)
            axes.set(title=HEADLINES[key], xlabel=name)
        figure.subplots_adjust(left=0.05, right=0.99, top=0.88, bottom=0.2, wspace=0.28)
        return _svg(figure)


def _reference(axes: Axes, rows: pd.DataFrame, over: str, label: str) -> None:
    values = rows.groupby(over).value
    mean, std = 100 * values.mean(), 100 * values.std(ddof=1).fillna(0)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.fill_between(mean.index, mean - std, mean + std, color=BLUE, alpha=0.15, lw=0)
    axes.plot(mean.index, mean, color=BLUE, lw=2.4, marker="o", ms=4, mec=INK, mew=0, label=label)
    axes.tick_params(color=MUTED)


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    # A fixed salt and no date, so that the same metrics give the same file.
    with mpl.rc_context({"svg.hashsalt": "sdmad"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
