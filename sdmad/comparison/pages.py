"""Pages of a comparison: a Markdown file with tables, their numbers as Parquet, and SVG plots."""

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sdmad import storage
from sdmad.comparison import calibration, charts
from sdmad.comparison.bootstrap import Replicates
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.summary import num_comparisons, rank_reference, summarise_methods
from sdmad.evaluation.measure import HEADLINES
from sdmad.evaluation.statistics import BETTER, NOT_DISTINGUISHABLE, WORSE
from sdmad.storage import parquet
from sdmad.words import code_version, counted

# By the verdict on the reference.
MARKS = {BETTER: "", NOT_DISTINGUISHABLE: "=", WORSE: "!"}
FEW_SHOTS = 4
COARSE = 0.25  # A median detectable difference above which verdicts say little.
LEAST_METHODS = 4  # With fewer, the worst two are not counted.


def write_pages(
    results: pd.DataFrame,
    config: CompareConfig,
    output: str,
    replicates: Replicates | None = None,
    calibrated: pd.DataFrame | None = None,
    tested: tuple[np.ndarray, np.ndarray] | None = None,
) -> str:
    """Write the pages of a comparison to `output`; returns the Markdown.

    These are `comparison.md`, `differences.parquet`, `verdicts.svg`, `shots.svg` if there are
    several numbers of shots, `<setting>.svg` for every setting that variants sweep, and
    `calibration.parquet` with the table `calibrated`, if it is given. `tested` are the truth (N, C)
    and the patients (N,) of the test images.
    """
    reference = config.reference
    summaries = _summaries(results, reference, replicates)
    page = heading(config, tested) + _page(summaries, reference, config.variants, replicates)
    if calibrated is not None:
        page += "\n## Calibration\n\n" + calibration.tables(calibrated)
        numbers = parquet.encode(pa.Table.from_pandas(calibrated, preserve_index=False))
        storage.write_bytes(storage.join(output, "calibration.parquet"), numbers)
    files = {"comparison.md": page}
    if results.shots.nunique() > 1:
        methods = [name for name in config.names if name not in config.variants]
        rivals = results[results.method.isin([*methods, reference])]
        files["shots.svg"] = charts.over_shots(rivals, reference)
    if results.method.nunique() > 1:
        files["verdicts.svg"] = charts.verdicts(summaries[-1], reference)
    files |= {f"{name}.svg": chart for name, chart in charts.sweeps(results).items()}
    for name, content in files.items():
        storage.write_bytes(storage.join(output, name), content.encode())
    named = zip(("seeds", "seeds and patients"), summaries, strict=False)
    table = pd.concat([summary.assign(over=over) for over, summary in named])
    numbers = parquet.encode(pa.Table.from_pandas(table, preserve_index=False))
    storage.write_bytes(storage.join(output, "differences.parquet"), numbers)
    return page


def heading(config: CompareConfig, tested: tuple[np.ndarray, np.ndarray] | None) -> str:
    """The title, and what was compared on which images."""
    lines = [
        f"Archive `{config.archive}`, labels `{config.labels}`, catalog `{config.catalog}`, "
        f"backbone `{config.backbone}`."
    ]
    if tested is not None:
        truth, patients = tested
        abnormal = truth.any(axis=1)
        share = 100 * abnormal.mean()
        lines.append(
            f"{counted(len(truth), 'test image')} of {counted(len(set(patients)), 'patient')}: "
            f"{int((~abnormal).sum()):,} normal, {int(abnormal.sum()):,} with a category. By "
            f"chance AUROC is 50 per cent, and average precision {share:.1f}."
        )
    lines.append(f"Made {datetime.now(UTC).date()} by sdmad {code_version()}.")
    return "# Comparison of methods\n\n" + "\n".join(lines) + "\n\n"


def markdown(
    results: pd.DataFrame,
    reference: str,
    variants: Collection[str] = (),
    replicates: Replicates | None = None,
) -> str:
    """How the reference stands among the methods, then a table for each number of shots.

    `variants` of the reference are in the tables but do not count as competitors. With
    `replicates`, the same follows for other test patients.
    """
    return _page(_summaries(results, reference, replicates), reference, variants, replicates)


def _summaries(
    results: pd.DataFrame, reference: str, replicates: Replicates | None
) -> list[pd.DataFrame]:
    """The summary over seeds, and that over seeds and patients if there are `replicates`."""
    made = [None, replicates] if replicates else [None]
    return [summarise_methods(results, reference, some) for some in made]


def _page(
    summaries: list[pd.DataFrame],
    reference: str,
    variants: Collection[str],
    replicates: Replicates | None,
) -> str:
    summary = summaries[0]
    ranked = standing(summary, reference, variants)
    parts = [*too_few(summary), *ranked]
    if ranked:
        parts.append(
            "A ranking is of all methods by one metric at one number of shots; variants of "
            f"{reference} do not count.\n"
        )
    parts += [corrected(summary), legend(reference)]
    parts += _tables(summary, reference, _means)
    if replicates:
        summary = summaries[1]
        parts.append("## Other supports and other patients\n")
        parts.append(other_patients(summary, reference, replicates))
        parts += standing(summary, reference, variants)
        parts += _tables(summary, reference, _differences)
    return "\n".join(parts)


def standing(summary: pd.DataFrame, reference: str, variants: Collection[str] = ()) -> list[str]:
    """How often the reference is first, not distinguishable from the best, or among the worst."""
    rivals = summary[~summary.method.isin([name for name in variants if name != reference])]
    rankings = rank_reference(rivals, reference)
    if rivals.method.nunique() < 2 or rankings.empty:
        return []
    few = rankings[rankings.shots <= FEW_SHOTS]
    groups = [("over all shots", rankings)]
    if 0 < len(few) < len(rankings):
        groups.insert(0, (f"with up to {FEW_SHOTS} shots", few))
    lines = []
    for which, group in groups:
        count = int(group.first_or_not_distinguishable.sum())
        first = int((group["rank"] == 1).sum())
        share = f"{count} of {len(group)} rankings ({100 * count / len(group):.0f} %)"
        lines.append(
            f"- {reference} is first or not distinguishable from the best method in {share} "
            f"{which}: it has the highest mean in {first}, and in {count - first} more the best is "
            "not distinguishable from it."
        )
    if rankings.methods.max() >= LEAST_METHODS:
        last = rankings[rankings["rank"] >= rankings.methods - 1]
        lines.append(
            f"- {reference} is the worst or the worst but one in {len(last)} of {len(rankings)} "
            "rankings over all shots."
        )
    return [*lines, ""]


def corrected(summary: pd.DataFrame) -> str:
    """How many comparisons the verdicts are corrected for."""
    count = num_comparisons(summary)
    if not count:
        return "There are no verdicts: they need at least two methods and two seeds.\n"
    return (
        f"Verdicts are paired t tests over seeds at a level of 5 %, corrected for {count} "
        "comparisons (Holm): each method, number of shots and metric is one.\n"
    )


def too_few(summary: pd.DataFrame) -> list[str]:
    """That hardly any difference could be found, if it is so."""
    smallest = summary.detectable.median()
    if not smallest > COARSE:
        return []
    least = "could be found" if smallest >= 1 else f"below {100 * smallest:.0f} points is found"
    return [
        f"**With {_seeds(summary)} hardly any difference {least}: that methods are not "
        "distinguishable says little here.** Take more seeds, or compare fewer methods.\n"
    ]


def legend(reference: str) -> str:
    """How to read the tables."""
    return (
        "Per cent, mean ± standard deviation over seeds. AUROC and average precision are those of "
        "the anomaly score, images with a category against normal ones; those against normal and "
        "against other anomalies are means over categories. Marks compare each method with "
        f"{reference} on the same supports: `!` better than {reference}, `=` not distinguishable "
        "from it, no mark worse. The last row is the smallest true difference, in points, that "
        "would be found with a probability of 80 % (median over methods; `differences.parquet` has "
        "it for each).\n"
    )


def other_patients(summary: pd.DataFrame, reference: str, replicates: Replicates) -> str:
    """How to read the tables of the two-level bootstrap."""
    return (
        "The verdicts above hold for these test images. Those below also allow for other test "
        f"patients: a bootstrap with {replicates.count:,} replicates draws from "
        f"{replicates.seeds} seeds and {replicates.patients:,} patients. The tables show "
        f"{reference} minus method in points with the 95 % interval, and for {reference} itself "
        f"its mean with the interval. Verdicts are corrected for {num_comparisons(summary)} "
        "comparisons (Holm), intervals are not.\n"
    )


def _tables(summary: pd.DataFrame, reference: str, shown: Callable[[Any, bool], str]) -> list[str]:
    """A table for each number of shots, with what `shown` makes of each row of the summary."""
    parts = []
    for shots, group in summary.groupby("shots", sort=True):
        parts.append(f"**{shots} {'shot' if shots == 1 else 'shots'}, {_seeds(group)}**\n")
        parts.append(_table(group, reference, shown))
    return parts


def _seeds(group: pd.DataFrame) -> str:
    fewest, most = group.seeds.min(), group.seeds.max()
    return f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds"


def _table(group: pd.DataFrame, reference: str, shown: Callable[[Any, bool], str]) -> str:
    lines = [
        f"| method | {' | '.join(HEADLINES.values())} |",
        "|---" * (len(HEADLINES) + 1) + "|",
    ]
    smallest = []
    for method, rows in group.groupby("method", sort=False):
        by_metric = rows.set_index(["protocol", "metric"])
        cells = [shown(by_metric.loc[key], method == reference) for key in HEADLINES]
        name = f"**{reference}**" if method == reference else str(method)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for key in HEADLINES:
        of_metric = group[(group.protocol == key[0]) & (group.metric == key[1])].detectable
        smallest.append(_points(of_metric.median()))
    lines.append(f"| *detectable difference* | {' | '.join(smallest)} |")
    return "\n".join(lines) + "\n"


def _points(difference: float) -> str:
    """A detectable difference in points: `> 100` where none would be found."""
    if not np.isfinite(difference):
        return "-"
    return "> 100" if difference > 1 else f"{100 * difference:.1f}"


def _means(row: pd.Series, is_reference: bool) -> str:
    mark = "" if is_reference else MARKS[row["verdict"]]
    return f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} {mark}".strip()


def _differences(row: pd.Series, is_reference: bool) -> str:
    if is_reference:
        low, high = 100 * row["mean_low"], 100 * row["mean_high"]
        return f"{100 * row['mean']:.1f} ({low:z.1f} to {high:.1f})"
    interval = f"({_signed(row['low'])} to {_signed(row['high'])})"
    return f"{_signed(row['difference'])} {interval} {MARKS[row['verdict']]}".strip()


def _signed(difference: float) -> str:
    """In points; never -0.0."""
    return f"{100 * difference:+z.1f}"
