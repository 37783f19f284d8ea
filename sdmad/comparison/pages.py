"""Pages of a comparison: a Markdown file with tables, and SVG charts."""

from collections.abc import Collection

import pandas as pd

from sdmad import storage
from sdmad.comparison import charts
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.summary import first_or_tied, summarise_methods
from sdmad.evaluation.measure import HEADLINES

# By the verdict on the reference.
MARKS = {"better": "", "tied": "=", "worse": "!"}
FEW_SHOTS = 4


def write_pages(results: pd.DataFrame, config: CompareConfig, output: str) -> str:
    """Write the pages of a comparison to `output`; returns the Markdown.

    These are `comparison.md`, `shots.svg` if there are several numbers of shots, and
    `<setting>.svg` for every setting that variants sweep.
    """
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
    """How often the reference is best or tied, then a table for each number of shots.

    `variants` of the reference are in the tables but do not count as competitors.
    """
    summary = summarise_methods(results, reference)
    rivals = summary[~summary.method.isin([name for name in variants if name != reference])]
    parts = []
    if rivals.method.nunique() > 1:
        parts += standing(first_or_tied(rivals, reference), reference)
    parts.append(legend(reference))
    for shots, group in summary.groupby("shots", sort=True):
        parts.append(f"**{shots} {'shot' if shots == 1 else 'shots'}, {_seeds(group)}**\n")
        parts.append(_table(group, reference))
    return "\n".join(parts)


def standing(rankings: pd.DataFrame, reference: str) -> list[str]:
    """In how many rankings, those of `first_or_tied`, the reference is best or tied."""
    few = rankings[rankings.shots <= FEW_SHOTS]
    groups = [("over all shots", rankings)]
    if 0 < len(few) < len(rankings):
        groups.insert(0, (f"with up to {FEW_SHOTS} shots", few))
    lines = []
    for which, group in groups:
        count = int(group.first_or_tied.sum())
        share = f"{count} of {len(group)} rankings ({100 * count / len(group):.0f} %)"
        lines.append(f"- {reference} is best or tied with the best method in {share} {which}.")
    meaning = "\nA ranking is of all methods by one metric at one number of shots; variants of"
    return [*lines, f"{meaning} {reference} do not count.\n"]


def legend(reference: str) -> str:
    """How to read the tables."""
    return (
        "Per cent, mean ± standard deviation over seeds. Each method is compared with "
        f"{reference} on the same supports (95 % bootstrap interval of the mean difference): "
        f"`=` tied, `!` better than {reference}, no mark worse.\n"
    )


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
