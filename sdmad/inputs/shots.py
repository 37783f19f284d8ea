"""How many images of each category a support has.

Shots are a number (`4`), `all` images of the pool, or numbers by category:

    {malignant: 40, default: 16}        # 40 of malignant, 16 of every other category and of normal
    {normal: all, default: 16}

On the command line these are `4`, `all`, `malignant=40,default=16` and `normal=all,default=16`.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Literal

from sdmad.errors import UserError
from sdmad.words import choices

Count = int | Literal["all"]
Shots = Count | dict[str, Count]
ShotsKey = int | str
"""Shots as paths and tables name them: `4`, `all`, `16.malignant-40`."""

DEFAULT, NORMAL, ALL = "default", "normal", "all"
LONGEST_KEY = 80


def checked(value: Any) -> Shots:
    """`value` as shots in their shortest form. Raises `ValueError` if it is not of this form."""
    if not isinstance(value, dict):
        return _count(value)
    if not value:
        raise ValueError("shots by category are empty; give numbers, as in {default: 16}")
    counts = {str(name): _count(count) for name, count in value.items()}
    default = counts.get(DEFAULT)
    others = {n: c for n, c in sorted(counts.items()) if n != DEFAULT and c != default}
    if default is None:
        return others
    return {DEFAULT: default, **others} if others else default


def _count(value: Any) -> Count:
    if value == ALL:
        return "all"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"shots must be a number, all, or numbers by category, not {value!r}")
    if value < 1:
        raise ValueError(f"shots must be 1 or more, not {value}")
    return value


def parse_shots(text: str) -> list[Shots]:
    """Shots of the command line: one number or `all`, several, a range, or numbers by category.

    Raises `UserError` for any other text.
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        if "=" in text:
            pairs = [part.split("=") for part in parts]
            names = [pair[0].strip() for pair in pairs]
            if any(len(pair) != 2 for pair in pairs) or len(set(names)) < len(names):
                raise ValueError("give each category once, as in malignant=40,default=16")
            return [checked({n: _number(p[1].strip()) for n, p in zip(names, pairs, strict=True)})]
        if re.fullmatch(r"\d+:\d+", text):
            parts = [str(number) for number in range(*map(int, text.split(":")))]
            if not parts:
                raise ValueError("an empty range; 1:5 means 1 to 4")
        found = [checked(_number(part)) for part in parts]
    except ValueError as error:
        raise UserError(f"shots {text!r}: {error}") from None
    if not found or len(set(map(key, found))) < len(found):
        raise UserError(
            f"shots {text!r} is neither a range such as 1:5, nor a list of different numbers such "
            "as 1,2,4, nor numbers by category such as malignant=40,default=16"
        )
    return found


def _number(text: str) -> Any:
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def by_category(shots: Shots, categories: Sequence[str]) -> dict[str, Count]:
    """The shots of each of `categories`, and of `normal`.

    Raises `UserError` for a category that does not exist or has no number.
    """
    names = [*categories, NORMAL]
    if not isinstance(shots, dict):
        return dict.fromkeys(names, shots)
    for name in shots:
        if name not in (*names, DEFAULT):
            raise UserError(
                f"shots name the category {name!r}, which the catalog does not have; "
                f"{choices(name, names, 'categories')}"
            )
    left = [name for name in names if name not in shots and DEFAULT not in shots]
    if left:
        raise UserError(
            f"shots give no number for {', '.join(left)}; add it, or `{DEFAULT}` for all others"
        )
    return {name: shots[name] if name in shots else shots[DEFAULT] for name in names}


def key(shots: Shots) -> ShotsKey:
    """The name of shots in paths and tables; a number for plain shots."""
    if not isinstance(shots, dict):
        return shots
    default = [str(shots[DEFAULT])] if DEFAULT in shots else []
    own = [f"{name}-{count}" for name, count in sorted(shots.items()) if name != DEFAULT]
    text = ".".join([*default, *own])
    if len(text) <= LONGEST_KEY:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return ".".join([*default, f"{len(own)}-categories", digest])


def in_words(shots: Shots) -> str:
    """As in "4 shots", "a support of all images" and "16 shots, 40 of malignant"."""
    if shots == ALL:
        return "a support of all images"
    if not isinstance(shots, dict):
        return f"{shots} {'shot' if shots == 1 else 'shots'}"
    own = [f"{count} of {name}" for name, count in shots.items() if name != DEFAULT]
    default = [in_words(shots[DEFAULT])] if DEFAULT in shots else []
    return ", ".join([*default, *own])


def in_order(keys: Sequence[ShotsKey]) -> list[ShotsKey]:
    """Keys of shots without repetition: numbers first, in their order."""
    return sorted(set(keys), key=lambda k: (isinstance(k, str), k if isinstance(k, int) else 0, k))
