"""Comparisons for people: Markdown tables, and charts."""

from collections.abc import Collection

import pandas as pd

from sdmad import storage
from sdmad.comparison import charts
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.summary import first_or_tied, summarise_methods
from sdmad.evaluation.measure import HEADLINES

MARKS = {"better": "", "tied": "=", "worse": "!"}


def write_pages(results: pd.DataFrame, config: CompareConfig, output: str) -> str:
    """Write `comparison.md`, `shots.svg` where there are several shots, and `<setting>.svg` for
    every setting that variants sweep; returns the Markdown."""
    page = markdown(results, config.reference, config.variants)
    files = {"comparison.md": page}
    if results.shots.nunique() > 1:
        methods = [name for name in config.names if name not in config.variants]
        rivals = results[results.method.isin([*methods, config.reference])]
        files["shots.svg"] = charts.over_shots(rivals, config.reference)
    files |= {f"{name}.svg": chart for name, chart in charts.sweeps(results).items()}
    for name, content in files.items():
        storage.write_bytes(storage.join(output, name), content.encode())
    return page


def markdown(results: pd.DataFrame, reference: str, variants: Collection[str] = ()) -> str:
    """A table for each number of shots, and in how many cells the reference is first or tied.

    `variants` of the reference itself stand in the tables and are no rivals in that count.
    """
    summary = summarise_methods(results, reference)
    parts = [
        "Per cent, mean ± standard deviation over seeds. Differences are paired over seeds, with a "
        f"95 % bootstrap interval: `=` is tied with {reference}, `!` is better than it, the others "
        "are worse.\n"
    ]
    for shots, group in summary.groupby("shots", sort=True):
        parts.append(f"**{shots} {'shot' if shots == 1 else 'shots'}, {_seeds(group)}**\n")
        parts.append(_table(group, reference))
    rivals = summary[~summary.method.isin([name for name in variants if name != reference])]
    if rivals.method.nunique() > 1:
        parts.append(_standing(rivals, reference))
    return "\n".join(parts)


def _seeds(group: pd.DataFrame) -> str:
    fewest, most = group.seeds.min(), group.seeds.max()
    return f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds"


def _table(group: pd.DataFrame, reference: str) -> str:
    names = list(HEADLINES.values())
    lines = [
        f"| method | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for method, rows in group.groupby("method", sort=False):
        cells = []
        for key in HEADLINES:
            row = rows[(rows.protocol == key[0]) & (rows.metric == key[1])].iloc[0]
            mark = "" if method == reference else MARKS[row.verdict]
            cells.append(f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} {mark}".strip())
        shown = f"**{reference}**" if method == reference else str(method)
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _standing(summary: pd.DataFrame, reference: str) -> str:
    standing = first_or_tied(summary, reference)
    few = standing[standing.shots <= 4]
    lines = []
    for what, cells in (("4 shots and fewer", few), ("all shots", standing)):
        if len(cells):
            count = int(cells.first_or_tied.sum())
            share = f"{count} of {len(cells)} cells ({100 * count / len(cells):.0f} %)"
            lines.append(f"- {reference} is first or tied in {share}, {what}.")
    return "\n".join(lines) + "\n"
