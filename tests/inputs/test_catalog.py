import copy

import numpy as np
import pytest
import yaml

from sdmad.archive.preprocess import InputConfig
from sdmad.errors import UserError
from sdmad.inputs.catalog import SHIPPED, Catalog, load_catalog, parse_catalog
from tests.helpers import ROOT

SMALL = {
    "name": "small",
    "modality": "test",
    "signs": {
        "a": {"prompts": ["an a", "the letter a"]},
        "b": {"prompts": ["a b"]},
        "calm": {"prompts": ["nothing"]},
    },
    "categories": {"one": {"signs": ["a", "b"]}, "two": {"signs": ["b"]}},
    "normal": {"signs": ["calm"]},
}


def test_a_sign_may_belong_to_several_categories() -> None:
    catalog = parse_catalog(SMALL, "small")
    assert catalog.membership.tolist() == [[True, True, False], [False, True, False]]
    assert catalog.normal_membership.tolist() == [False, False, True]


def test_texts_are_prompts_in_templates_with_their_sign() -> None:
    catalog = parse_catalog(SMALL | {"templates": ["{}", "seen: {}"]}, "small")
    texts, owner = catalog.texts
    assert texts[:2] == ["an a", "seen: an a"]
    assert owner.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("colour",), "red", "unknown key 'colour'"),
        (("categories", "one", "signs"), ["a", "z"], "one lists the sign 'z'"),
        (("categories", "one", "signs"), ["a", "a"], "one lists a sign twice"),
        (("categories", "two", "signs"), ["a"], None),
        (("normal", "signs"), ["a"], "the sign 'calm' belongs to no category"),
        (("signs", "a", "prompts"), [], "signs.a.prompts"),
        (("categories", "normal"), {"signs": ["a"]}, "'normal' is not a category"),
        (("categories", "Bad Name"), {"signs": ["a"]}, "Bad Name"),
        (("templates",), ["no place"], "needs exactly one {}"),
    ],
)
def test_errors_name_the_file_and_the_entry(path, value, message) -> None:
    content = copy.deepcopy(SMALL)
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    if message is None:
        parse_catalog(content, "x.yaml")
        return
    with pytest.raises(UserError) as caught:
        parse_catalog(content, "x.yaml")
    assert message in str(caught.value)
    assert "x.yaml" in str(caught.value)


def test_the_digest_depends_on_content_and_not_on_layout(tmp_path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    first = load_catalog(str(file)).digest
    file.write_text("# a comment\n" + yaml.safe_dump(SMALL, sort_keys=False, indent=4))
    assert load_catalog(str(file)).digest == first
    changed = copy.deepcopy(SMALL)
    changed["signs"]["a"]["prompts"] = ["another a"]
    assert parse_catalog(changed, "x").digest != first
    assert parse_catalog(SMALL | {"flip": False}, "x").digest == first
    assert parse_catalog(SMALL | {"flip": True}, "x").digest != first


def test_the_error_for_a_missing_catalog_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match="fundus"):
        load_catalog("nowhere.yaml")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_catalogs_are_valid_and_have_sources(path) -> None:
    catalog = load_catalog(path.stem)
    assert all(category.source for category in catalog.categories.values())
    shared = catalog.membership.sum(axis=0) > 1
    assert shared.any() or len(catalog.categories) == 1, "some sign is shared between categories"


def test_fundus_has_the_categories_of_odir() -> None:
    assert load_catalog("fundus").category_names == [
        "diabetic_retinopathy",
        "glaucoma",
        "cataract",
        "age_related_macular_degeneration",
        "hypertensive_retinopathy",
        "pathological_myopia",
        "other_abnormality",
    ]


def test_a_quarter_of_the_signs_in_the_phantom_catalog_are_wrong() -> None:
    from sdmad.phantoms.task import SHOWN_SIGNS

    catalog = load_catalog("phantoms")
    listed = {name: set(c.signs) for name, c in catalog.categories.items()}
    wrong = {name: signs - set(SHOWN_SIGNS[name]) for name, signs in listed.items()}
    assert all(set(SHOWN_SIGNS[name]) <= signs for name, signs in listed.items())
    share = sum(map(len, wrong.values())) / sum(map(len, listed.values()))
    assert np.isclose(share, 0.25, atol=0.03)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_the_documentation_lists_the_shipped_catalog(name) -> None:
    page = (ROOT / "docs/signs.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
    for category in load_catalog(name).category_names:
        assert category in row


def test_the_input_of_a_run_is_configured_or_the_catalogs_or_the_backbones() -> None:
    chest, phantoms = load_catalog("chest_xray"), load_catalog("phantoms")
    squash = InputConfig(resize="squash")
    assert chest.chosen_input(None).resize == "pad", "a chest film is kept whole"
    assert chest.chosen_input(squash) == squash
    assert phantoms.chosen_input(None) == InputConfig()


def test_only_where_sides_do_not_matter_a_shipped_catalog_allows_flips() -> None:
    allowed = {p.stem for p in SHIPPED.glob("*.yaml") if load_catalog(p.stem).flip}
    assert allowed == {"histopathology"}
    assert load_catalog("histopathology").with_names().flip


def test_names_are_one_more_sign_of_each_category() -> None:
    catalog = load_catalog("fundus")
    named = catalog.with_names()
    assert named.texts[0][: len(catalog.texts[0])] == catalog.texts[0]
    added = named.sign_names[len(catalog.signs) :]
    assert added == [f"name_{name}" for name in [*catalog.category_names, "normal"]]
    assert named.signs["name_age_related_macular_degeneration"].prompts == [
        "age-related macular degeneration"
    ]
    assert named.signs["name_normal"].prompts == ["no abnormality"]
    new = named.membership[:, len(catalog.signs) :]
    assert (new[:, :-1] == np.eye(len(catalog.categories))).all()
    assert not new[:, -1].any()
    assert not named.written[:, len(catalog.signs) :].any()
    assert (named.written[:, : len(catalog.signs)] == catalog.membership).all()
    assert (catalog.written == catalog.membership).all()
    assert named.normal_membership[-1]
    assert named.with_names() == named
    assert Catalog.model_validate(named.model_dump()) == named


def test_a_name_that_is_a_prompt_already_is_not_added() -> None:
    assert "name_normal" not in load_catalog("phantoms").with_names().signs
    longest = "a" * 64
    content = {
        "name": "x",
        "modality": "x",
        "signs": {"mass": {"prompts": ["A mass", "Mass"]}, "clear": {"prompts": ["clear"]}},
        "categories": {"mass": {"signs": ["mass"]}, longest: {"signs": ["mass"]}},
        "normal": {"signs": ["clear"], "title": "clear"},
    }
    named = Catalog.model_validate(content).with_names()
    assert named.sign_names == ["mass", "clear", f"name_{longest}"]
