"""Reasons of failures, grouped: without what belongs to one image."""

import re

_NUMBERS = re.compile(r"\d+")


def kind_of(reason: str) -> str:
    """The part of a reason before the first colon, with # for numbers; at most 60 characters."""
    return _NUMBERS.sub("#", reason.partition(":")[0]).strip()[:60]
