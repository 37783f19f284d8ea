"""The most anomalous images or groups of a scoring run; only so many rows are kept in memory.

found = rank_images("runs/scores", Ranking(), 50)
found.entries[0].row["uri"], found.entries[0].score
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from sdmad.errors import UserError
from sdmad.inputs.groups import load_groups
from sdmad.scoring import tables
from sdmad.scoring.decisions import ReadDecision, apply_to_rows
from sdmad.scoring.groups.matching import Matcher
from sdmad.scoring.groups.pooling import keep_highest
from sdmad.scoring.plan import open_plan
from sdmad.scoring.redecide import check_undecided
from sdmad.storage import run_record
from sdmad.words import choices, counted

# What a logit may add to the anomaly score: less than the smallest step between two scores near 1.
TIE = 1e-9
# Tables of older versions lack it.
ANOMALY_LOGIT = "anomaly_logit"


@dataclass(frozen=True)
class Ranking:
    """What images are ranked by: the anomaly score, or with `without` the highest score of the
    categories that are not in it. Logits decide between equal scores.

    With a decision, which tables also bring themselves (`decided`), images with a finding that
    counts come first, and the highest calibrated probability decides among them.
    """

    without: tuple[str, ...] = ()
    decision: ReadDecision | None = None
    decided: bool = False

    def of_tables(self, metadata: dict[str, str], scores: str) -> "Ranking":
        """The ranking for tables with this metadata. Raises `UserError` if they were decided with
        another file, or if the decision belongs to another detector."""
        before = metadata.get("decision")
        if self.decision is None or self.decision.digest == before:
            return replace(self, decision=None, decided=before is not None)
        check_undecided(metadata, scores)
        categories = metadata["categories"].split(";")
        self.decision.check(metadata["detector"], metadata.get("detector_uri", ""), categories)
        return replace(self, decided=True)

    def check(self, categories: list[str]) -> None:
        """Raise `UserError` for an unknown category, or if none is left."""
        for name in self.without:
            if name not in categories:
                raise UserError(
                    f"--without {name!r} is no category of these scores; "
                    f"{choices(name, categories, 'categories')}"
                )
        if not set(categories) - set(self.without):
            raise UserError("--without names every category; leave at least one")

    def ranked(self, categories: list[str]) -> list[str]:
        """The categories that count."""
        return [name for name in categories if name not in self.without]

    def keys(self, part: pa.Table, categories: list[str]) -> np.ndarray:
        """What the images (N,) of a score table are sorted by, highest first."""

        def highest(kind: str) -> np.ndarray:
            columns = [f"{kind}_{name}" for name in self.ranked(categories)]
            return np.stack([part[name].to_numpy() for name in columns]).max(axis=0)

        if self.decided:
            counts = np.array([name in self.ranked(categories) for name in categories])
            found = tables.finding_matrix(part["findings"], categories) & counts
            scores = highest("score") + found.any(axis=1)
        else:
            scores = highest("score") if self.without else part["anomaly_score"].to_numpy()
        by_anomaly = not (self.decided or self.without) and ANOMALY_LOGIT in part.column_names
        logits = part[ANOMALY_LOGIT].to_numpy() if by_anomaly else highest("logit")
        return scores.astype(float) + TIE * np.clip(logits / 1000, -1, 1)

    def score(self, row: dict[str, Any], categories: list[str]) -> float:
        """The score of one row that a person sees."""
        if self.without or self.decided:
            return max(float(row[f"score_{name}"]) for name in self.ranked(categories))
        return float(row["anomaly_score"])


@dataclass(frozen=True)
class Entry:
    """An image, as its `row` in the score tables, and its score.

    With groups, it is the highest image of `group`, which has so many scored images, and so many
    `with_findings` that count.
    """

    row: dict[str, Any]
    score: float
    group: str = ""
    images: int = 1
    with_findings: int = 0


@dataclass(frozen=True)
class Ranked:
    """The highest `entries` first, of so many scored images in so many groups (if any).

    `notices` are sentences for the user, `metadata` is that of the plan, `units` are the finished
    ones.
    """

    entries: list[Entry]
    images: int
    groups: int
    categories: list[str]
    metadata: dict[str, str]
    units: list[str]
    notices: list[str]


@dataclass(frozen=True)
class ScoredRun:
    """What is finished of a scoring run: ids of units, and how many are not, and failures.

    `decision` changes findings and scores as the tables are read.
    """

    metadata: dict[str, str]
    categories: list[str]
    units: list[str]
    unfinished: int
    failures: int
    decision: ReadDecision | None = None

    @staticmethod
    def open(scores: str) -> "ScoredRun":
        """Raises `UserError` if there is no run."""
        metadata, planned = open_plan(scores)
        categories = metadata["categories"].split(";")
        ids, done = [unit.id for unit in planned], tables.done_units(scores)
        units = [unit for unit in ids if unit in done]
        failures = _failures(scores, units)
        return ScoredRun(metadata, categories, units, len(ids) - len(units), failures)

    def notices(self, scores: str) -> list[str]:
        """What is missing in the tables."""
        found = []
        if self.unfinished:
            left = counted(self.unfinished, "work unit")
            found.append(f"{scores} is not finished: {left} without scores, so images are missing")
        if self.failures:
            lost = counted(self.failures, "image")
            found.append(f"{lost} without scores, in the failures of the run, cannot be listed")
        return found

    def nothing(self, scores: str) -> UserError:
        """The exception if no image has a score."""
        if self.unfinished:
            return UserError(f"{scores} has no scores yet; run `sdmad score` to its end first")
        lost = counted(self.failures, "failure")
        return UserError(
            f"no image of {scores} has a score: the run is finished, with {lost}; `sdmad status` "
            "lists the reasons"
        )

    @property
    def columns(self) -> list[str]:
        kinds = ("score", "logit", *(["spread"] if self.decision else []))
        names = [f"{kind}_{name}" for name in self.categories for kind in kinds]
        lists = ["findings", "uncertain", "signs", "evidence"]
        return ["uri", "archive", "member", "anomaly_score", ANOMALY_LOGIT, *lists, *names]

    def parts(self, scores: str) -> Iterator[pa.Table]:
        return map(self.decided, tables.read_parts(scores, "scores", self.units, self.columns))

    def decided(self, part: pa.Table) -> pa.Table:
        """A part of the tables with the decision of the run, if it has one."""
        return apply_to_rows(self.decision.decision, part) if self.decision else part


def _failures(scores: str, units: list[str]) -> int:
    """The number of failures in `units`: as the runs have counted it if they counted these units,
    otherwise from the tables."""
    counts = run_record.read_any(scores).get("all_runs", {})
    if counts.get("units") == len(units):
        return int(counts["failures"])
    return sum(len(part) for part in tables.read_parts(scores, "failures", units, ("stage",)))


def _opened(scores: str, ranking: Ranking) -> tuple[ScoredRun, Ranking]:
    """The run, and the ranking with the decision of its tables if it has none of its own."""
    run = ScoredRun.open(scores)
    ranking = ranking.of_tables(run.metadata, scores)
    ranking.check(run.categories)
    if ranking.decision:
        metadata = run.metadata | ranking.decision.metadata
        run = replace(run, metadata=metadata, decision=ranking.decision)
    return run, ranking


def rank_images(scores: str, ranking: Ranking, top: int) -> Ranked:
    """The `top` images of a scoring run. Raises `UserError` when there is no run or no image."""
    run, ranking = _opened(scores, ranking)
    kept: pa.Table | None = None
    keys, images = np.zeros(0), 0
    for part in run.parts(scores):
        images += part.num_rows
        both = part if kept is None else tables.together([kept, part])
        keys = np.concatenate([keys, ranking.keys(part, run.categories)])
        order = np.argsort(-keys, kind="stable")[:top]
        kept, keys = both.take(pa.array(order)), keys[order]
    if kept is None or not images:
        raise run.nothing(scores)
    entries = [Entry(row, ranking.score(row, run.categories)) for row in kept.to_pylist()]
    notices = run.notices(scores)
    return Ranked(entries, images, 0, run.categories, run.metadata, run.units, notices)


def rank_groups(scores: str, ranking: Ranking, top: int, groups_uri: str, by: str) -> Ranked:
    """The `top` groups of a scoring run by their highest image."""
    run, ranking = _opened(scores, ranking)
    table = load_groups(groups_uri, by, run.metadata["archive"])
    matcher = Matcher(scores, table)
    best = np.full((len(table), 1, 1), -np.inf)
    places = np.full(best.shape, None, object)
    images, carrying = np.zeros(len(table), int), np.zeros(len(table), int)
    counts = np.array([name in ranking.ranked(run.categories) for name in run.categories])
    for number, part in enumerate(run.parts(scores)):
        rows, groups = matcher.match(part)
        if not len(rows):
            continue
        part = part.take(pa.array(rows))
        where = np.fromiter(((number, row) for row in rows.tolist()), object, len(rows))
        keep_highest(best, ranking.keys(part, run.categories)[:, None], groups, where, places)
        np.add.at(images, groups, 1)
        found = (tables.finding_matrix(part["findings"], run.categories) & counts).any(axis=1)
        np.add.at(carrying, groups, found)
    matcher.finish(run.units)
    order = np.argsort(-best[:, 0, 0], kind="stable")[:top]
    entries = []
    for group in order[images[order] > 0].tolist():
        number, place = places[group, 0, 0]
        part = tables.read_part(scores, "scores", run.units[number], run.columns)
        row = run.decided(part.slice(place, 1)).to_pylist()[0]
        score = ranking.score(row, run.categories)
        name, count = table.groups[group], int(images[group])
        entries.append(Entry(row, score, name, count, int(carrying[group])))
    total, scored = int(images.sum()), int((images > 0).sum())
    notices = [*run.notices(scores), *matcher.notices]
    return Ranked(entries, total, scored, run.categories, run.metadata, run.units, notices)
