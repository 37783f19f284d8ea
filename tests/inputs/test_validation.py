import pytest
from pydantic import ValidationError

from sdmad.errors import UserError
from sdmad.fitting.config import TrainConfig
from sdmad.fitting.config_reference import rows
from sdmad.inputs.validation import explain

BASE = {"archive": "a", "labels": "b", "catalog": "phantoms"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shot": [4]}, "unknown key 'shot'; is 'shots' meant?"),
        (
            {"learner": {"probe": {"wieght": 1}}},
            "unknown key 'learner.probe.wieght'; is 'weight' meant?",
        ),
        ({"input": {"resise": "pad"}}, "unknown key 'input.resise'; is 'resize' meant?"),
        ({"zebra": 1}, "unknown key 'zebra'"),
    ],
)
def test_a_key_that_is_nearly_known_is_named(changes, sentence) -> None:
    with pytest.raises(ValidationError) as told:
        TrainConfig.model_validate(BASE | changes)
    assert explain(told.value, TrainConfig) == sentence


@pytest.mark.parametrize(
    ("prevalence", "sentence"),
    [
        (0, "learner.prevalence: Input should be greater than 0"),
        (1.5, "learner.prevalence: Input should be less than 1"),
        ({"tumour": 0, "cyst": 0.1}, "learner.prevalence.tumour: Input should be greater than 0"),
        (
            {"tumour": 2, "cyst": 2},
            "learner.prevalence.tumour: Input should be less than 1 (and 1 more)",
        ),
        ([0.1], "learner.prevalence: Input should be a valid number"),
    ],
)
def test_a_prevalence_that_is_no_share_is_refused(prevalence, sentence) -> None:
    with pytest.raises(ValidationError) as told:
        TrainConfig.model_validate(BASE | {"learner": {"prevalence": prevalence}})
    assert explain(told.value, TrainConfig) == sentence


@pytest.mark.parametrize("flip", ["maybe", 2, [True]])
def test_what_is_neither_true_nor_false_is_refused(flip) -> None:
    with pytest.raises(ValidationError) as told:
        TrainConfig.model_validate(BASE | {"learner": {"augment": {"flip": flip}}})
    sentence = f"learner.augment.flip: give true or false, not {flip!r}"
    assert explain(told.value, TrainConfig) == sentence


@pytest.mark.parametrize("wrong", [[0.1], {"some": 2}, "x", -1])
def test_no_sentence_shows_the_types_that_were_tried(wrong) -> None:
    for key, *_ in rows(TrainConfig):
        value = wrong
        for part in reversed(key.strip("`").split(".")):
            value = {part: value}
        try:
            TrainConfig.model_validate(BASE | value)
        except ValidationError as error:
            where = explain(error, TrainConfig).split(": ")[0]
            assert "[" not in where and "constrained" not in where, key
        except UserError:
            pass
