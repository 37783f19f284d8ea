"""Plots of a comparison: metrics over shots, or over one setting (as in the paper's Figure 3)."""

import io
import re
from collections import defaultdict

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdmad.evaluation.measure import HEADLINES
from sdmad.report.plots import BLUE, GRID, INK, MUTED, STYLE

SHOWN = (
    ("anomaly detection", "auroc"),
    ("category discrimination", "macro_others"),
    ("multi-label prediction", "hamming_score"),
    ("multi-label prediction", "subset_accuracy"),
)
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
