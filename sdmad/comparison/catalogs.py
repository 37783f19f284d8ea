"""Catalogs made worse on purpose: fewer signs, or wrong ones among them."""

import math
from collections.abc import Callable

import torch

from sdmad.inputs.catalog import Catalog, Category
from sdmad.method.augment import random_generator


def keep_signs(catalog: Catalog, count: int) -> Catalog:
    """The first `count` signs of every category; normal keeps all of its own."""
    return _relisted(catalog, lambda _, category: category.signs[:count])


def plant_wrong_signs(catalog: Catalog, share: float) -> Catalog:
    """Signs of other categories listed under each, so that `share` of its signs is wrong.

    The planted ones are drawn from the signs of other categories by the category's name alone;
    the share is rounded up to whole signs, as far as there are enough others.
    """

    def with_wrong(name: str, category: Category) -> list[str]:
        others = [
            s
            for other, listed in catalog.categories.items()
            for s in listed.signs
            if other != name and s not in category.signs
        ]
        others = list(dict.fromkeys(others))
        wanted = math.ceil(share / (1 - share) * len(category.signs) - 1e-9)
        ranks = torch.randperm(len(others), generator=random_generator("wrong signs", name))
        return [*category.signs, *(others[k] for k in ranks[:wanted].tolist())]

    return _relisted(catalog, with_wrong)


def _relisted(catalog: Catalog, signs_of: Callable[[str, Category], list[str]]) -> Catalog:
    """The catalog with other signs in its categories; signs that nobody lists go."""
    categories = {
        name: category.model_copy(update={"signs": signs_of(name, category)})
        for name, category in catalog.categories.items()
    }
    used = {s for c in [*categories.values(), catalog.normal] for s in c.signs}
    signs = {name: sign for name, sign in catalog.signs.items() if name in used}
    content = {name: getattr(catalog, name) for name in Catalog.model_fields}
    return Catalog.model_validate(content | {"categories": categories, "signs": signs})
