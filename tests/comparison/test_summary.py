"""Paired differences, verdicts and tables."""

import numpy as np
import pandas as pd
import pytest

from sdmad.comparison.pages import markdown
from sdmad.comparison.summary import first_or_tied, paired_interval, summarise_methods
from sdmad.evaluation.measure import HEADLINES


def results(shift: dict[str, np.ndarray]) -> pd.DataFrame:
    """Every metric of every method: 0.5, plus a part of the seed, plus one of the method."""
    rows = []
    for method, values in shift.items():
        for seed, value in enumerate(values):
            for protocol, metric in HEADLINES:
                rows.append((method, 4, seed, protocol, metric, 0.5 + 0.05 * seed + value))
    return pd.DataFrame(rows, columns=["method", "shots", "seed", "protocol", "metric", "value"])


NOISE = np.array([0.001, -0.002, 0.003, -0.001, 0.002, -0.003, 0.001, -0.001])
TABLE = results({"ours": 0 * NOISE, "worse": NOISE - 0.02, "same": NOISE, "ahead": NOISE + 0.02})


def test_the_interval_contains_the_mean_and_is_repeatable() -> None:
    low, high = paired_interval(NOISE + 0.01)
    assert low < 0.01 < high
    assert high - low < 0.006
    assert paired_interval(NOISE + 0.01) == (low, high)
    assert paired_interval(np.full(5, 0.25)) == (0.25, 0.25)
    assert np.isnan(paired_interval(np.array([0.1]))).all()


def test_differences_are_paired_over_seeds() -> None:
    """Differences of 0.02 show although metrics differ by 0.35 between seeds."""
    summary = summarise_methods(TABLE, "ours").set_index(["method", "metric"])
    verdicts = [summary.loc[(name, "auroc"), "verdict"] for name in ("worse", "same", "ahead")]
    assert verdicts == ["better", "tied", "worse"]
    row = summary.loc[("worse", "auroc")]
    assert row["difference"] == pytest.approx(0.02)
    assert row["low"] < 0.02 < row["high"]
    assert row["std"] > 0.1


def test_only_seeds_that_both_methods_have_count() -> None:
    short = TABLE[~((TABLE.method == "worse") & (TABLE.seed == 7))]
    summary = summarise_methods(short, "ours").set_index(["method", "metric"])
    assert summary.loc[("worse", "auroc"), "seeds"] == 7


def test_first_or_tied_compares_with_the_best_method() -> None:
    behind = first_or_tied(summarise_methods(TABLE, "ours"), "ours")
    assert (behind.best == "ahead").all()
    assert not behind.first_or_tied.any()
    tied = TABLE[TABLE.method != "ahead"]
    assert first_or_tied(summarise_methods(tied, "ours"), "ours").first_or_tied.all()


def test_the_page_marks_who_is_better() -> None:
    lines = markdown(TABLE, "ours").splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert rows["ahead"].count("!") == len(HEADLINES)
    assert rows["same"].count("=") == len(HEADLINES)
    assert "!" not in rows["worse"]
    assert "=" not in rows["worse"]
    assert lines[0] == (
        "- ours is best or tied with the best method in 0 of 8 rankings (0 %) over all shots."
    )


def test_few_shots_are_counted_apart() -> None:
    lines = markdown(pd.concat([TABLE, TABLE.assign(shots=8)]), "same").splitlines()
    assert "in 0 of 8 rankings (0 %) with up to 4 shots." in lines[0]
    assert "in 0 of 16 rankings (0 %) over all shots." in lines[1]
