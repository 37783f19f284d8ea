"""What messages say often: numbers with nouns, durations, paths, the version of this code."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def counted(number: int, noun: str) -> str:
    """As in "1 image", "0 images" and "12,288 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def meant(name: str, known: Iterable[str]) -> str:
    """As in "is 'fundus' meant?", the one of the `known` most like `name`; empty if none is."""
    near = get_close_matches(name, list(known), n=1)
    return f"is {near[0]!r} meant?" if near else ""


def choices(name: str, known: Iterable[str], what: str) -> str:
    """As in "is 'gda' meant? (methods are gda, coop)", or only "methods are gda, coop"."""
    known = list(known)
    listed = f"{what} are {', '.join(known)}"
    near = meant(name, known)
    return f"{near} ({listed})" if near else listed


def duration(seconds: float) -> str:
    """As in "14 s", "7 min", "3.5 h" and "12 days"."""
    for size, unit in ((48 * 3600, "days"), (5400, "h"), (120, "min")):
        if seconds >= size:
            value = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{value:.1f} h" if unit == "h" else f"{value:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def as_typed(text: str) -> str:
    """A message in which local paths below the working directory are relative to it.

    Other paths and URIs of object storage stay as they are.
    """
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        return text
    if here == "/":
        return text
    # Not where the directory is a part of a longer path or URI, as in s3://data/... or file:///...
    return re.sub(rf"(?<![\w./~-]){re.escape(here)}/(?=[^\s'\"])", "", text)


def code_version() -> str:
    try:
        return version("sdmad")
    except PackageNotFoundError:
        return "unknown"
