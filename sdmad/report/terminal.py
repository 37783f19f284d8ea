"""The headline metrics as a table on the terminal."""

import math

from rich.console import Console
from rich.table import Table

from sdmad import logs
from sdmad.evaluation.by_group import Grouped
from sdmad.evaluation.measure import HEADLINES, compare_runs, over_seeds
from sdmad.evaluation.protocols import Summary
from sdmad.evaluation.statistics import Judged
from sdmad.report.run import Evaluated
from sdmad.words import counted


def print_metrics(result: Evaluated) -> None:
    """Print mean ± standard deviation over seeds, in per cent, and the difference to baselines.

    Notices about test images without a score go to stderr.
    """
    for notice in result.notices:
        logs.notice(notice)
    images = counted(len(result.test.table), "test image")
    table = Table(title=f"{images}; mean ± std over seeds, in per cent")
    captions = list(result.reasons)
    if result.baselines:
        captions.append("verdicts are corrected for the number of comparisons, intervals are not")
    table.caption = "\n".join(captions) or None
    for column in ("protocol", "metric", result.test.name):
        table.add_column(column)
    summary = over_seeds(result.metrics)
    others = {}
    compared = compare_runs(result.metrics, result.baselines)
    for name, theirs in result.baselines.items():
        table.add_column(name)
        table.add_column("difference (95 % interval)")
        others[name] = (over_seeds(theirs), compared[name])
    for key, name in HEADLINES.items():
        row = [key[0], name, _plain(summary[key])]
        for theirs_summary, difference in others.values():
            row += [_plain(theirs_summary[key]), _judged(difference.get(key))]
        table.add_row(*row)
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    if result.grouped:
        console.print(_groups_table(result.grouped))


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


def _plain(summary: Summary) -> str:
    return f"{_percent(summary.mean)} ± {_percent(summary.std)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def _judged(difference: Judged | None) -> str:
    if difference is None:
        return "-"
    mean, low, high = (100 * v for v in (difference.mean, difference.low, difference.high))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}), {difference.verdict}"
