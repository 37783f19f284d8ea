"""Match the images of a scoring run with the rows of a group table, and say what does not match."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from sdmad.errors import UserError
from sdmad.inputs.groups import GroupTable
from sdmad.inputs.matching import (
    NEAR_AMONG,
    SHOWN,
    FailureIndex,
    Name,
    NameIndex,
    near_miss,
    shown,
    some,
)
from sdmad.logs import Notice
from sdmad.scoring import tables
from sdmad.words import counted


class Matcher:
    """Keeps a bit for each row of the group table, and counts images without a group.

        for part in parts:
            rows, groups = matcher.match(part)
        matcher.finish(units)

    After `finish`, `failed` and `unknown` are masks of the rows of the group table whose images are
    in the failures of the run, or nowhere; `notices` are sentences for the user.
    """

    def __init__(self, scores: str, table: GroupTable) -> None:
        self.scores, self.table = scores, table
        self.failed = np.zeros(len(table.names), bool)
        self.unknown = np.zeros(len(table.names), bool)
        self.notices: list[str] = []
        self._index = NameIndex(table.names)
        self._seen = np.zeros(len(table.names), bool)
        self._without = 0
        self._some_without: list[Name] = []
        self._some_scored: list[Name] = []

    def match(self, part: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a score table that are in a group, and the numbers of their groups.

        Raises `UserError` when two images match one row of the group table.
        """
        names = _names(part)
        rows, groups = [], []
        for row, name in enumerate(names):
            listed = self._index.find(name)
            group = -1 if listed is None else int(self.table.of_image[listed])
            if listed is not None:
                if self._seen[listed]:
                    raise self._twice(name)
                self._seen[listed] = True
            if group >= 0:
                rows.append(row)
                groups.append(group)
                continue
            self._without += 1
            self._some_without += [name] * (len(self._some_without) < SHOWN)
        self._some_scored += names[: NEAR_AMONG - len(self._some_scored)]
        return np.array(rows, int), np.array(groups, int)

    def finish(self, units: list[str]) -> None:
        """Look for the other listed images in the failures of `units`.

        Raises `UserError` when no listed image has a score.
        """
        if not self._seen.any():
            there = self._some_scored
            raise UserError(
                f"no image of {self.table.uri} has a score in {self.scores}: the table names "
                f"{some(self.table.names)}{near_miss(self.table.names, there)}, and the scores "
                f"{some(there[:SHOWN]) or 'no images'}; give the table of the archive that was "
                "scored, with the same archive and member"
            )
        if not self._seen.all():
            index = FailureIndex(self.table.names)
            for part in tables.read_parts(self.scores, "failures", units, ("archive", "member")):
                for name in _names(part):
                    self.failed[index.find(name)] = True
        self.failed &= ~self._seen
        self.unknown = ~self._seen & ~self.failed
        self.notices = list(self._told())

    def _twice(self, name: Name) -> UserError:
        return UserError(
            f"{self.scores} has two scores for {shown(name)}, or for two names that match the same "
            f"row of {self.table.uri}; `sdmad verify` says whether the archive has two images of "
            "this name"
        )

    def _told(self) -> Iterator[str]:
        uri = self.table.uri
        unknown = self._listed(self.unknown)
        if unknown:
            text = f"no row in {self.scores} for {counted(len(unknown), 'image')} of {uri}"
            near = near_miss(unknown, self._some_scored)
            yield Notice(text, f"{text}: {some(unknown)}{near}")
        failed = self._listed(self.failed)
        if failed:
            images = counted(len(failed), "image")
            text = f"no score but a failure in {self.scores} for {images} of {uri}"
            yield Notice(text, f"{text}: {some(failed)}")
        if self._without:
            more = self._without - len(self._some_without)
            text = f"no group in {uri} for {counted(self._without, 'scored image')}"
            others = f" and {more:,} more" if more else ""
            yield Notice(text, f"{text}: {some(self._some_without)}{others}")

    def _listed(self, mask: np.ndarray) -> list[Name]:
        return [self.table.names[row] for row in np.flatnonzero(mask)]


def _names(part: pa.Table) -> list[Name]:
    return list(zip(part["archive"].to_pylist(), part["member"].to_pylist(), strict=True))
