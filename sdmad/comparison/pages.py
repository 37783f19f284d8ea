"""Comparisons as Markdown tables: for people, and for docs/results.md."""

import pandas as pd

from sdmad.comparison.summary import first_or_tied, summarise_methods
from sdmad.evaluation.measure import HEADLINES

MARKS = {"better": "", "tied": "=", "worse": "!"}


def markdown(results: pd.DataFrame, reference: str) -> str:
    """A table for each number of shots, and in how many cells the reference is first or tied."""
    summary = summarise_methods(results, reference)
    parts = [
        "Per cent, mean ± standard deviation over seeds. Differences are paired over seeds, with a "
        f"95 % bootstrap interval: `=` is tied with {reference}, `!` is better than it, the others "
        "are worse.\n"
    ]
    for shots, group in summary.groupby("shots", sort=True):
        parts.append(f"**{shots} {'shot' if shots == 1 else 'shots'}, {_seeds(group)}**\n")
        parts.append(_table(group, reference))
    parts.append(_standing(summary, reference))
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
