"""Plots of comparisons: what they show, and when they are written."""

import re

import pandas as pd
import pytest

from sdmad.comparison.charts import over_shots, sweeps, verdicts
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.pages import write_pages
from sdmad.comparison.summary import summarise_methods
from sdmad.evaluation.measure import HEADLINES


def results(methods: list[str], shots: tuple[int, ...] = (1, 4)) -> pd.DataFrame:
    rows = [
        (method, k, seed, protocol, metric, 0.5 + 0.01 * seed + 0.02 * k + 0.03 * n)
        for n, method in enumerate(methods)
        for k in shots
        for seed in range(3)
        for protocol, metric in HEADLINES
    ]
    return pd.DataFrame(rows, columns=["method", "shots", "seed", "protocol", "metric", "value"])


def texts(svg: str) -> set[str]:
    return set(re.findall(r">([^<>]+)</text>", svg))


def test_every_method_is_a_line_with_its_name() -> None:
    names = ["ours", *(f"method {k}" for k in range(12))]
    chart = over_shots(results(names), "ours")
    assert set(names) <= texts(chart)
    assert chart == over_shots(results(names), "ours")


def test_verdicts_are_drawn_for_each_method_metric_and_shots() -> None:
    """Each method is better than the one before by 3 points, on every seed."""
    summary = summarise_methods(results(["behind", "ours", "ahead"]), "ours")
    chart = verdicts(summary, "ours")
    assert {"behind", "ahead", *HEADLINES.values()} <= texts(chart)
    written = re.findall(r">([^<>]+)</text>", chart)
    assert written.count("+3") == written.count("-3") == 2 * len(HEADLINES)
    assert "corrected for 32 comparisons" in texts(chart)
    assert chart == verdicts(summary, "ours")


def test_variants_named_by_numbers_of_one_setting_are_a_sweep() -> None:
    charts = sweeps(results(["ours", "lambda=0.1", "lambda=0.9", "depth=2", "no=thing"]))
    assert list(charts) == ["lambda"]
    assert "lambda" in texts(charts["lambda"])


@pytest.mark.parametrize(("shots", "made"), [((1, 4), True), ((4,), False)])
def test_the_files_of_a_comparison(tmp_path, shots, made) -> None:
    config = CompareConfig(
        archive="a",
        labels="l",
        catalog="phantoms",
        methods=["sd_mad", "linear_probe"],
        variants={"lambda=0.1": {}, "lambda=0.5": {}},
    )
    table = results(config.names, shots)
    page = write_pages(table, config, str(tmp_path))
    assert (tmp_path / "comparison.md").read_text() == page
    assert (tmp_path / "shots.svg").exists() == made
    assert (tmp_path / "lambda.svg").exists()
    assert "lambda=0.1" in texts((tmp_path / "verdicts.svg").read_text())
    numbers = pd.read_parquet(tmp_path / "differences.parquet")
    assert len(numbers) == 4 * len(shots) * len(HEADLINES)
    assert set(numbers.over) == {"seeds"}
    if made:
        assert "lambda=0.1" not in texts((tmp_path / "shots.svg").read_text())


def test_variants_of_the_reference_do_not_compete_with_it() -> None:
    from sdmad.comparison.pages import markdown

    # Each method is better than the one before.
    table = results(["sd_mad", "linear_probe", "more steps"])
    assert "in 0 of 16 rankings" in markdown(table, "sd_mad", {"more steps": 0})
    table = results(["linear_probe", "sd_mad", "more steps"])
    assert "in 16 of 16 rankings" in markdown(table, "sd_mad", {"more steps": 0})
    assert "in 0 of 16 rankings" in markdown(table, "sd_mad")
    alone = results(["sd_mad", "more steps"])
    assert "rankings" not in markdown(alone, "sd_mad", {"more steps": 0})
