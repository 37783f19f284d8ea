"""Folders and shards: the same numbers as pandas gives, in bounded memory."""

import numpy as np
import pytest

from sdmad.evaluation.sites import Groups


def drawn(groups: int, images: int = 200, shifted: int | None = None):
    """Names, anomaly scores and findings; the images of one group score higher."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), images)
    anomaly = np.clip(rng.normal(0.4, 0.1, len(group)) + 0.1 * (group == shifted), 0, 0.999)
    return group, anomaly.astype(np.float32), rng.random((len(group), 2)) < 0.2


def filled(names: np.ndarray, anomaly: np.ndarray, found: np.ndarray, **options) -> Groups:
    groups = Groups(2, **options)
    for part in np.array_split(np.arange(len(names)), 7):
        groups.add(names[part], anomaly[part], found[part])
    return groups


def test_a_site_that_differs_is_named() -> None:
    group, anomaly, found = drawn(5, shifted=3)
    names = np.array([f"site-{g}/shard-{k % 4}.tar" for k, g in enumerate(group)], object)
    compared = {g.name: g for g in filled(names, anomaly, found).compared()}
    assert sorted(compared) == [f"site-{g}/" for g in range(5)]
    assert [name for name, g in compared.items() if g.different] == ["site-3/"]
    own, rest = anomaly[group == 3].astype(float), anomaly[group != 3].astype(float)
    three = compared["site-3/"]
    assert three.mean == pytest.approx(own.mean())
    within = np.sqrt((own.var() * len(own) + rest.var() * len(rest)) / len(anomaly))
    assert three.shift == pytest.approx((own.mean() - rest.mean()) / within)
    assert three.shares == pytest.approx(
        [*found[group == 3].mean(0), found[group == 3].any(1).mean()]
    )
    assert three.quantiles[2] == pytest.approx(np.median(own), abs=0.02)


def test_folders_are_compared_at_the_first_level_that_tells_apart_or_at_a_given_one() -> None:
    group, anomaly, found = drawn(4, images=50)
    names = np.array([f"data/site-{g // 2}/{g}.tar" for g in group], object)
    groups = filled(names, anomaly, found)
    assert [g.name for g in groups.compared()] == ["data/site-0/", "data/site-1/"]
    assert len(groups.compared(depth=3)) == 4
    assert groups.compared(depth=1) == []


def test_memory_is_bounded_and_nothing_is_lost() -> None:
    group, anomaly, found = drawn(60, images=20)
    for name in ("shard-{:05d}.tar", "folder/{:03d}/x", "{:d}/{:d}"):
        names = np.array([name.format(g, g) for g in group], object)
        groups = filled(names, anomaly, found, most=16)
        assert len(groups._sums) <= 16
        compared = groups.compared()
        assert sum(g.images for g in compared) in (0, len(group))
        assert sum(s.images for s in groups._sums.values()) == len(group)


def test_failures_count_and_small_groups_are_not_judged() -> None:
    groups = Groups(1)
    groups.add(
        np.array(["a"] * 100 + ["b"] * 5, object),
        np.array([0.1] * 100 + [0.9] * 5),
        np.zeros((105, 1), bool),
    )
    groups.add_failures(np.array(["b", "b", "c"], object))
    compared = {g.name: g for g in groups.compared()}
    assert not any(g.different for g in compared.values())
    assert (compared["b"].failures, compared["c"].images) == (2, 0)
    assert compared["b"].failed == pytest.approx(2 / 7)
