"""Paired differences, verdicts, rankings and tables."""

import numpy as np
import pandas as pd
import pytest

from sdmad.comparison.bootstrap import Replicates
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.pages import heading, markdown
from sdmad.comparison.summary import (
    RANKING,
    num_comparisons,
    rank_reference,
    summarise_methods,
)
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


def by_method(summary: pd.DataFrame) -> pd.DataFrame:
    return summary.set_index(["method", "metric"])


def test_differences_are_paired_over_seeds() -> None:
    """Differences of 0.02 show although metrics differ by 0.35 between seeds."""
    summary = by_method(summarise_methods(TABLE, "ours"))
    verdicts = [summary.loc[(name, "auroc"), "verdict"] for name in ("worse", "same", "ahead")]
    assert verdicts == ["better", "not distinguishable", "worse"]
    row = summary.loc[("worse", "auroc")]
    assert row["difference"] == pytest.approx(0.02)
    assert row["low"] < 0.02 < row["high"]
    assert 0 < row["detectable"] < 0.02
    assert row["std"] > 0.1
    assert row["mean_low"] < row["mean"] - 0.05, "the interval of the mean is not paired"


def test_verdicts_are_corrected_for_all_methods_shots_and_metrics() -> None:
    summary = summarise_methods(TABLE, "ours")
    assert num_comparisons(summary) == 3 * len(HEADLINES)
    more = summarise_methods(pd.concat([TABLE, TABLE.assign(shots=8)]), "ours")
    assert num_comparisons(more) == 2 * 3 * len(HEADLINES)
    row, again = (by_method(s[s.shots == 4]).loc[("worse", "auroc")] for s in (summary, more))
    assert again["p"] == row["p"]
    assert again["corrected_p"] > row["corrected_p"] > row["p"]
    assert again["detectable"] > row["detectable"]


def test_the_reference_is_not_compared_with_itself() -> None:
    own = by_method(summarise_methods(TABLE, "ours")).loc[("ours", "auroc")]
    assert own["verdict"] == ""
    assert np.isnan(own["p"])
    alone = summarise_methods(TABLE[TABLE.method == "ours"], "ours")
    assert num_comparisons(alone) == 0


def test_only_seeds_that_both_methods_have_count() -> None:
    short = TABLE[~((TABLE.method == "worse") & (TABLE.seed == 7))]
    summary = by_method(summarise_methods(short, "ours"))
    assert summary.loc[("worse", "auroc"), "seeds"] == 7


def test_metrics_that_are_not_defined_are_neither_compared_nor_ranked() -> None:
    undefined = TABLE.assign(value=TABLE.value.where(TABLE.metric != "macro_f1"))
    summary = summarise_methods(undefined, "ours")
    assert num_comparisons(summary) == 3 * (len(HEADLINES) - 1)
    row = by_method(summary).loc[("worse", "macro_f1")]
    assert row["verdict"] == "not distinguishable"
    assert len(rank_reference(summary, "ours")) == len(HEADLINES) - 1


def test_the_reference_is_compared_with_the_best_method() -> None:
    behind = rank_reference(summarise_methods(TABLE, "ours"), "ours")
    assert (behind.best == "ahead").all()
    assert not behind.first_or_not_distinguishable.any()
    level = TABLE[TABLE.method != "ahead"]
    assert rank_reference(
        summarise_methods(level, "ours"), "ours"
    ).first_or_not_distinguishable.all()


@pytest.mark.parametrize(
    ("reference", "rank"), [("ahead", 1), ("ours", 2), ("same", 2), ("worse", 4)]
)
def test_the_rank_of_the_reference(reference, rank) -> None:
    """The mean of `NOISE` is 0, so "same" is as good as "ours"."""
    found = rank_reference(summarise_methods(TABLE, reference), reference)
    assert found[RANKING].drop_duplicates().shape == (len(HEADLINES), 3)
    assert (found["rank"] == rank).all()
    assert (found.methods == 4).all()


def test_equal_means_share_the_better_rank() -> None:
    equal = pd.concat([TABLE, TABLE[TABLE.method == "ahead"].assign(method="as good")])
    found = rank_reference(summarise_methods(equal, "ahead"), "ahead")
    assert (found["rank"] == 1).all()
    assert (found.best == "ahead").all()


def test_replicates_widen_intervals_and_decide_the_verdicts() -> None:
    """Replicates of "worse" spread by 0.02, as much as its difference."""
    random = np.random.default_rng(0)
    spread = {"ours": 0.0, "worse": 0.02, "same": 0.0, "ahead": 0.001}
    means = {
        (method, 4, *key): 0.5 + random.normal(0, scale, 2000)
        for method, scale in spread.items()
        for key in HEADLINES
    }
    replicates = Replicates(means, 2000, 8, 100)
    seeds = by_method(summarise_methods(TABLE, "ours"))
    both = by_method(summarise_methods(TABLE, "ours", replicates))
    assert (both.difference.to_numpy() == seeds.difference.to_numpy()).all()
    assert both.loc[("worse", "auroc"), "verdict"] == "not distinguishable"
    assert both.loc[("ahead", "auroc"), "verdict"] == "worse"
    row = both.loc[("worse", "auroc")]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.98 * 0.02, rel=0.05)
    page = markdown(TABLE, "ours", replicates=replicates)
    first, second = page.split("## Other supports and other patients")
    assert "2,000 replicates draws from 8 seeds and 100 patients" in second
    assert "+2.0 (-" in second
    assert "+2.0 (-" not in first
    assert first.count("corrected for 24 comparisons") == 1
    assert second.count("corrected for 24 comparisons") == 1


def test_the_page_marks_who_is_better() -> None:
    lines = markdown(TABLE, "ours").splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert rows["ahead"].count("!") == len(HEADLINES)
    assert rows["same"].count("=") == len(HEADLINES)
    assert "!" not in rows["worse"]
    assert "=" not in rows["worse"]
    assert rows["*detectable difference*"].count("0.") == len(HEADLINES)
    assert lines[0] == (
        "- ours is first or not distinguishable from the best method in 0 of 8 rankings (0 %) over "
        "all shots: it has the highest mean in 0, and in 0 more the best is not distinguishable "
        "from it."
    )
    assert lines[1] == "- ours is the worst or the worst but one in 0 of 8 rankings over all shots."
    assert "corrected for 24 comparisons (Holm)" in "\n".join(lines)


def test_the_page_counts_rankings_in_which_the_reference_is_among_the_worst() -> None:
    assert "worst but one in 8 of 8 rankings" in markdown(TABLE, "worse")
    few = TABLE[TABLE.method.isin(["worse", "same", "ahead"])]
    assert "worst but one" not in markdown(few, "worse"), "of three methods two are always"


def test_one_seed_has_no_verdicts() -> None:
    page = markdown(TABLE[TABLE.seed == 0], "ours")
    assert "There are no verdicts" in page
    assert "| *detectable difference* | - |" in page
    assert "nan" not in page


def test_few_shots_are_counted_apart() -> None:
    lines = markdown(pd.concat([TABLE, TABLE.assign(shots=8)]), "same").splitlines()
    assert "in 0 of 8 rankings (0 %) with up to 4 shots:" in lines[0]
    assert "in 0 of 16 rankings (0 %) over all shots:" in lines[1]


def test_too_few_seeds_are_said_and_no_number_lies_outside_of_what_can_be() -> None:
    generator = np.random.default_rng(0)
    noisy = TABLE[TABLE.seed < 2]
    noisy = noisy.assign(value=generator.uniform(0, 1, len(noisy)))
    page = markdown(noisy, "ours")
    assert page.startswith("**With 2 seeds hardly any difference could be found"), "before rankings"
    assert "| > 100 |" in page
    assert "hardly any difference" not in markdown(TABLE, "ours")
    summary = summarise_methods(noisy, "ours")
    assert summary.mean_low.min() == 0
    assert summary.mean_high.max() == 1
    assert summary.low.min() == -1


def test_the_title_says_what_was_compared_and_what_chance_is() -> None:
    config = CompareConfig(archive="s3://a/b", labels="l.csv", catalog="phantoms")
    truth = np.array([[True, False], [False, True], [True, True], [False, False]])
    text = heading(config, (truth, np.array([0, 0, 1, 2])))
    assert text.startswith("# Comparison of methods\n\nArchive `s3://a/b`, labels `l.csv`")
    assert "4 test images of 3 patients: 1 normal, 3 with a category" in text
    assert "average precision 75.0" in text
