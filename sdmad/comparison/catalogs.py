"""Catalogs made worse on purpose, with fewer signs or with wrong ones."""

import math
from collections.abc import Callable

import torch

from sdmad.inputs.catalog import Catalog, Category
from sdmad.method.augment import random_generator


def keep_signs(catalog: Catalog, count: int) -> Catalog:
    """The catalog with the first `count` signs of every category; normal keeps all its signs."""
    return _relisted(catalog, lambda _, category: category.signs[:count])


def plant_wrong_signs(catalog: Catalog, share: float) -> Catalog:
    """The catalog with signs of other categories added to each, so that `share` of them is wrong.

    The number of wrong signs is rounded up, and limited to the signs that other categories have.
    Which signs are drawn depends on the category's name alone.
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
    """The catalog with new signs for its categories, without signs that are no longer listed."""
    categories = {
        name: category.model_copy(update={"signs": signs_of(name, category)})
        for name, category in catalog.categories.items()
    }
    used = {s for c in [*categories.values(), catalog.normal] for s in c.signs}
    signs = {name: sign for name, sign in catalog.signs.items() if name in used}
    content = {name: getattr(catalog, name) for name in Catalog.model_fields}
    return Catalog.model_validate(content | {"categories": categories, "signs": signs})
