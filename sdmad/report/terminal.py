"""The headline metrics as a table on the terminal."""

import math

from rich.console import Console
from rich.table import Table

from sdmad import logs
from sdmad.evaluation.by_group import Grouped
from sdmad.evaluation.measure import ENSEMBLE, HEADLINES, compare_runs, over_seeds
from sdmad.evaluation.protocols import Summary
from sdmad.evaluation.statistics import Judged
from sdmad.evaluation.thresholds import Target
from sdmad.report.run import Evaluated
from sdmad.scoring.decisions import DecisionFile, Rate
from sdmad.words import counted


def print_metrics(result: Evaluated, names: bool = False) -> None:
    """Print mean ± standard deviation over seeds, in per cent, and the difference to baselines.

    Notices about test images without a score go to stderr; `names` names some of these images.
    """
    for notice in result.notices:
        logs.notice(notice, names)
    images = counted(len(result.test.table), "test image")
    table = Table(title=f"{images}; mean ± std over seeds, in per cent")
    captions = list(result.reasons)
    if result.baselines:
        captions.append("verdicts are corrected for the number of comparisons, intervals are not")
    table.caption = "\n".join(captions) or None
    for column in ("protocol", "metric", result.test.name, "ensemble"):
        table.add_column(column)
    ensemble = result.metrics[
        (result.metrics.seed == ENSEMBLE) & (result.metrics.category == "")
    ].set_index(["protocol", "metric"])
    summary = over_seeds(result.metrics)
    others = {}
    compared = compare_runs(result.metrics, result.baselines)
    for name, theirs in result.baselines.items():
        table.add_column(name)
        table.add_column("difference (95 % interval)")
        others[name] = (over_seeds(theirs), compared[name])
    for key, name in HEADLINES.items():
        if key[1] == "average_precision":
            name += f" (chance {100 * result.test.truth.any(axis=1).mean():.1f})"
        row = [key[0], name, _plain(summary[key]), _percent(float(ensemble.value[key]))]
        for theirs_summary, difference in others.values():
            row += [_plain(theirs_summary[key]), _judged(difference.get(key))]
        table.add_row(*row)
    _print(table)
    if result.grouped:
        _print(_groups_table(result.grouped))


def _groups_table(grouped: Grouped) -> Table:
    """The headline metrics by group; the interval is that of the ensemble."""
    title = f"{counted(len(grouped.test.table), 'group')} by {grouped.by} ({grouped.pooling})"
    table = Table(title=f"{title}, in per cent")
    columns = ("protocol", "metric", "mean ± std over seeds", "ensemble")
    for column in (*columns, "95 % interval over groups"):
        table.add_column(column)
    for row in grouped.rows():
        table.add_row(
            row.protocol,
            row.name,
            _plain(row.seeds),
            f"{100 * row.ensemble:.1f}",
            f"{100 * row.low:.1f} to {100 * row.high:.1f}",
        )
    return table


def _print(table: Table) -> None:
    Console(width=None if Console().is_terminal else 140).print(table)


def _plain(summary: Summary) -> str:
    return f"{_percent(summary.mean)} ± {_percent(summary.std)}"


def _percent(value: float) -> str:
    return f"{100 * value:z.1f}" if math.isfinite(value) else "-"


def _judged(difference: Judged | None) -> str:
    if difference is None:
        return "-"
    mean, low, high = (100 * v for v in (difference.mean, difference.low, difference.high))
    return f"{mean:+z.1f} ({low:+z.1f} to {high:+z.1f}), {difference.verdict}"


def print_decision(
    file: DecisionFile, target: Target, notices: list[logs.Notice], names: bool = False
) -> None:
    """Print the threshold of each category and what it reaches, with 95 % intervals."""
    for notice in notices:
        logs.notice(notice, names)
    table = Table(
        title=f"{target.text}: {counted(file.images, 'image')} of "
        f"{counted(file.patients, 'patient')} (split {file.split}), with 95 % intervals over "
        "patients"
    )
    for column in ("category", "with it", "prevalence", "threshold", "sensitivity, per cent"):
        table.add_column(column)
    table.add_column("specificity, per cent")
    table.add_column("findings in 1000")
    for name in file.categories:
        part = file.by_category[name]
        if part is None:
            table.add_row(name, "", "", "0.5, as scored", "", "", "")
            continue
        low, high = part.threshold_interval
        table.add_row(
            name,
            counted(part.images_with, "image"),
            f"{part.prevalence:.3g}",
            f"{part.threshold:.3g} ({low:.3g} to {high:.3g})",
            _with_interval(part.sensitivity, 100),
            _with_interval(part.specificity, 100),
            _with_interval(part.findings_a_thousand, 1, 0),
        )
    _print(table)
    for reason, count in file.left_out.items():
        logs.notice(f"left out: {count:,} {reason}")
    for name, part in file.by_category.items():
        if part and part.auroc < 0.6:
            logs.notice(
                f"{name}: the scores hardly separate images with it from those without "
                f"(AUROC {100 * part.auroc:.0f} %), and no threshold mends that"
            )


def _with_interval(rate: Rate, scale: float, digits: int = 1) -> str:
    value, low, high = (scale * number for number in (rate.value, rate.low, rate.high))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
