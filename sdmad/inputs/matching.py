"""Match the names of a label table with those of an archive, and say what does not match.

Names match if they are equal, or else if `comparable` makes them equal: a leading `./` and the
Unicode normal form do not count.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from unicodedata import normalize

from sdmad.archive.naming import comparable, split_frame

Name = tuple[str, str]
SHOWN = 3
NEAR_AMONG = 5000


class NameIndex(dict[Name, int]):
    """The row of each image (archive, member) of a label table, by all names that match."""

    def __init__(self, names: Iterable[Name]) -> None:
        super().__init__((name, row) for row, name in enumerate(names))
        self.alike = {_comparable(name): row for name, row in self.items()}

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        return isinstance(name, tuple) and _comparable(name) in self.alike

    def __missing__(self, name: Name) -> int:
        return self.alike[_comparable(name)]

    def find(self, name: Name) -> int | None:
        """The row of an image; None if no row matches it."""
        row = super().get(name)
        return self.alike.get(_comparable(name)) if row is None else row


class FailureIndex:
    """The rows of a label or group table that a failure stands for.

    A failure stands for the image that it names, and for all frames of the file or all images of
    the shard that could not be read as a whole.
    """

    def __init__(self, names: Iterable[Name]) -> None:
        self._index = NameIndex(names)
        self._within: dict[Name, list[int]] = {}
        for name, row in self._index.items():
            archive, member = _comparable(name)
            file, frame = split_frame(member)
            wholes = [(archive, file)] * (frame is not None) + [(archive, "")] * bool(archive)
            for whole in wholes:
                self._within.setdefault(whole, []).append(row)

    def find(self, failure: Name) -> list[int]:
        row = self._index.find(failure)
        within = self._within.get(_comparable(failure), [])
        return within if row is None else [row, *within]


def _comparable(name: Name) -> Name:
    return comparable(name[0]), comparable(name[1])


def shown(name: Name) -> str:
    """A name as it is shown to a person."""
    return "/".join(filter(None, name))


def told_apart(one: Name, other: Name) -> str:
    """Two names as a person can tell them apart; those that look alike have Unicode escapes."""
    texts = shown(one), shown(other)
    if normalize("NFC", texts[0]) == normalize("NFC", texts[1]):
        texts = ascii(texts[0]), ascii(texts[1])
    return " and ".join(texts)


def some(names: Iterable[Name]) -> str:
    """The first names, at most `SHOWN`."""
    listed = [shown(name) for name in names]
    more = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def near_miss(missing: Iterable[Name], stored: Iterable[Name]) -> str:
    """A hint at a stored name that is nearly that of a missing image; empty if there is none."""
    there = [shown(name) for name in stored][:NEAR_AMONG]
    folded = {name.casefold(): name for name in there}
    for name in [shown(name) for name in missing][:SHOWN]:
        near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.8)
        if near:
            return f" (is {folded[near[0]]} meant by {name}?)"
    return ""
