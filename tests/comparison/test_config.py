"""Methods of a comparison, and what variants change."""

import pytest
from pydantic import ValidationError

from sdmad.comparison.catalogs import keep_signs, plant_wrong_signs
from sdmad.comparison.config import CompareConfig, Variant
from sdmad.errors import UserError
from sdmad.fitting.config import load_config
from sdmad.inputs.catalog import load_catalog
from sdmad.method.learner import LearnerConfig
from tests.helpers import ROOT

DATA = {"archive": "a", "labels": "b", "catalog": "phantoms"}


@pytest.mark.parametrize("name", ["phantoms", "odir", "breast_ultrasound", "ablation"])
def test_shipped_comparisons_are_valid(name) -> None:
    config = load_config(str(ROOT / f"configs/comparisons/{name}.yaml"), {}, CompareConfig)
    assert config.reference == "sd_mad"
    # The sweep over lambda has the default among its values.
    names = [name for name in config.names if name != "lambda=0.7"]
    assert len({config.digest(method) for method in names}) == len(names)


def test_a_variant_changes_only_what_it_names() -> None:
    learner = LearnerConfig(steps=7)
    variant = Variant(learner={"adapter": {"image": {"frozen_weight": 0.5}}})
    changed = variant.changed(learner)
    assert changed.adapter.image.frozen_weight == 0.5
    assert changed.adapter.text == learner.adapter.text
    assert changed.steps == 7


@pytest.mark.parametrize("method", ["sd_mad", "linear_probe"])
def test_flips_are_those_of_the_catalog_unless_configured(method) -> None:
    """And a catalog without flips leaves the digests of versions in which they were `false`."""
    silent = CompareConfig.model_validate(DATA)
    said = {
        flip: CompareConfig.model_validate(DATA | {"learner": {"augment": {"flip": flip}}})
        for flip in (True, False)
    }
    catalog = load_catalog("phantoms")
    for flip in (True, False):
        chosen = silent.for_catalog(catalog.model_copy(update={"flip": flip}))
        assert chosen.learner.augment.flip is flip
        assert chosen.digest(method) == said[flip].digest(method)
        other = said[not flip].for_catalog(catalog.model_copy(update={"flip": flip}))
        assert other.learner.augment.flip is not flip


def test_the_digest_changes_with_the_settings_of_the_method_alone() -> None:
    def config(**more: object) -> CompareConfig:
        return CompareConfig.model_validate(DATA | more)

    plain, longer = config(), config(learner={"steps": 5})
    for method in ("sd_mad", "linear_probe"):
        assert plain.digest(method) != longer.digest(method)
    other = config(learner={"zero_shot_weight": 0})
    assert plain.digest("sd_mad") != other.digest("sd_mad")
    assert plain.digest("linear_probe") == other.digest("linear_probe")
    varied = config(variants={"x": {"learner": {"zero_shot_weight": 0}}})
    assert varied.digest("x") == other.digest("sd_mad")
    assert varied.digest("sd_mad") == plain.digest("sd_mad")
    assert config(variants={"x": {"wrong_signs": 0.2}}).digest("x") != plain.digest("sd_mad")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"methods": ["sd_mad", "magic"]}, "no method 'magic'; methods are sd_mad"),
        ({"methods": ["zero_shot_sign"]}, "is 'zero_shot_signs' meant"),
        ({"methods": ["linear_probe"]}, "reference 'sd_mad' is not among"),
        ({"variants": {"linear_probe": {}}}, "cannot be called 'linear_probe'"),
        ({"variants": {"a/b": {}}}, "cannot be called 'a/b'"),
        ({"variants": {"x": {"learner": {"stepz": 3}}}}, "stepz"),
        ({"shots": [0]}, "1 or more"),
    ],
)
def test_mistakes_are_refused(more, message) -> None:
    with pytest.raises(ValidationError, match=message):
        CompareConfig.model_validate(DATA | more)


def test_an_empty_range_of_seeds_is_refused() -> None:
    with pytest.raises(UserError, match="seeds '8:0'"):
        CompareConfig.model_validate(DATA | {"seeds": "8:0"})


def test_wrong_signs_come_from_other_categories_in_the_given_share(catalog) -> None:
    assert catalog.membership.any(), "a catalog whose cached properties exist can be changed"
    worse = plant_wrong_signs(catalog, 0.25)
    for name, category in catalog.categories.items():
        listed = worse.categories[name].signs
        planted = listed[len(category.signs) :]
        assert listed[: len(category.signs)] == category.signs
        assert planted
        assert not set(planted) & set(category.signs)
        others = {s for n, c in catalog.categories.items() if n != name for s in c.signs}
        assert set(planted) <= others
        assert len(planted) / len(listed) >= 0.25
        assert (len(planted) - 1) / (len(listed) - 1) < 0.25
    assert worse.normal == catalog.normal
    assert plant_wrong_signs(catalog, 0.25) == worse


def test_keeping_fewer_signs_keeps_the_first_and_drops_unlisted_ones(catalog) -> None:
    fewer = keep_signs(catalog, 1)
    for name, category in catalog.categories.items():
        assert fewer.categories[name].signs == category.signs[:1]
    assert fewer.membership.sum(1).tolist() == [1] * len(catalog.categories)
