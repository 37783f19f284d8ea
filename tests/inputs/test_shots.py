"""Shots: numbers, `all`, and numbers by category."""

import numpy as np
import pytest

from sdmad.errors import UserError
from sdmad.fitting.config import TrainConfig
from sdmad.inputs.shots import by_category, checked, in_order, in_words, key, parse_shots
from sdmad.inputs.support import draw_support
from tests.inputs.test_support import random_table, table


@pytest.mark.parametrize(
    ("text", "shots"),
    [
        ("4", [4]),
        ("1,2,4", [1, 2, 4]),
        ("1:4", [1, 2, 3]),
        ("all", ["all"]),
        ("4,all", [4, "all"]),
        ("malignant=40, default=16", [{"default": 16, "malignant": 40}]),
        ("normal=all,default=16", [{"default": 16, "normal": "all"}]),
        # The shortest form: what differs from the default.
        ("malignant=16,default=16", [16]),
    ],
)
def test_shots_of_the_command_line(text, shots) -> None:
    assert parse_shots(text) == shots


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be a number, all, or numbers by category"),
        ("0", "must be 1 or more, not 0"),
        ("-1", "must be 1 or more"),
        ("4,4", "nor a list of different numbers"),
        ("3:1", "an empty range; 1:5 means 1 to 4"),
        ("many", "must be a number, all, or numbers by category, not 'many'"),
        ("malignant=40,16", "give each category once"),
        ("a=1,a=2", "give each category once"),
        ("a=few", "not 'few'"),
    ],
)
def test_other_texts_are_refused_with_one_sentence(text, problem) -> None:
    with pytest.raises(UserError, match=problem):
        parse_shots(text)


@pytest.mark.parametrize("configured", ["all", {"one": 3, "default": 2}, [4, "all"], 4])
def test_a_configuration_need_not_list_shots(configured) -> None:
    settings = {"archive": "a", "labels": "l", "catalog": "c", "shots": configured}
    config = TrainConfig.model_validate(settings)
    assert config.shots == (configured if isinstance(configured, list) else [configured])
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_names_are_short_and_safe_for_paths() -> None:
    assert (key(4), key("all")) == (4, "all")
    assert key({"malignant": 40, "default": 16}) == key({"default": 16, "malignant": 40})
    assert key({"malignant": 40, "default": 16}) == "16.malignant-40"
    many = {f"a_long_name_of_category_{k}": k + 1 for k in range(14)}
    assert key(many).startswith("14-categories.")
    assert len(key(many)) < 80
    assert key(many) != key(many | {"a_long_name_of_category_0": 9})
    assert in_order(["all", 16, 2, "16.malignant-40"]) == [2, 16, "16.malignant-40", "all"]
    assert in_words({"default": 16, "malignant": 40}) == "16 shots, 40 of malignant"


def test_categories_that_do_not_exist_or_have_no_number_are_refused() -> None:
    assert by_category({"two": 3, "default": 1}, ["one", "two"]) == {
        "one": 1,
        "two": 3,
        "normal": 1,
    }
    with pytest.raises(UserError, match=r"'tow', which the catalog does not have; is 'two' meant"):
        by_category({"tow": 3, "default": 1}, ["one", "two"])
    with pytest.raises(UserError, match="give no number for one, normal; add it, or `default`"):
        by_category({"two": 3}, ["one", "two"])


def test_a_support_has_the_shots_of_each_category() -> None:
    labels = random_table(1, 200)
    rows = draw_support(labels, checked({"one": 6, "default": 2}), 0)
    drawn = labels.labels[rows]
    assert drawn[:, 0].sum() >= 6
    assert (~drawn.any(axis=1)).sum() == 2
    # More of one category do not change which images of the others come first.
    assert set(draw_support(labels, 2, 0)) <= set(
        draw_support(labels, {"normal": 9, "default": 2}, 0)
    )


def test_all_is_the_whole_pool_without_patients_of_the_test_split() -> None:
    labels = random_table(2)
    tested = set(labels.patient[labels.split == "test"])
    eligible = [
        row for row in np.flatnonzero(labels.split == "pool") if labels.patient[row] not in tested
    ]
    for seed in range(2):
        assert sorted(draw_support(labels, "all", seed)) == eligible


def test_all_needs_an_image_of_every_category() -> None:
    labels = table([[1, 0], [1, 0], [0, 0]], ["a", "b", "c"], ["pool"] * 3)
    with pytest.raises(UserError, match="1 image of two in the pool, and there are 0"):
        draw_support(labels, "all", 0)


def test_too_few_images_of_one_category_are_refused_by_name() -> None:
    labels = table([[1, 0], [0, 1], [0, 0]] * 2, list("abcdef"), ["pool"] * 6)
    with pytest.raises(UserError, match="3 shots need 3 images of two in the pool"):
        draw_support(labels, {"two": 3, "default": 1}, 0)
