"""What to label next, from the tables of a scoring run.

found = suggest("runs/scores", 50, labels="labels.csv", activations="runs/activations")
found.asked[0].row["uri"], found.asked[0].category, found.asked[0].reason
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sdmad.errors import UserError
from sdmad.inputs.groups import load_groups
from sdmad.inputs.label_studio import NORMAL
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.scoring.groups.run import fingerprint
from sdmad.scoring.ranking import ScoredRun
from sdmad.scoring.suggestions.candidates import (
    ANOMALY,
    Candidates,
    Known,
    all_scores,
    collect,
    draw,
    evidence,
    values,
)
from sdmad.scoring.suggestions.choice import Pool, choose, depth
from sdmad.words import counted

if TYPE_CHECKING:
    from sdmad.scoring.similar import Search

RANDOM = "random"


@dataclass(frozen=True)
class Asked:
    """An image to label, as its `row` in the score tables, and why.

    `category` may be normal, whose `score` is 1 - the anomaly score. It is empty for images drawn
    at random, whose `score` is the anomaly score. `patient` is empty if not known.
    """

    row: dict[str, Any]
    category: str
    reason: str
    score: float
    patient: str

    @property
    def name(self) -> tuple[str, str]:
        """Archive and member."""
        return str(self.row["archive"]), str(self.row["member"])


@dataclass(frozen=True)
class Suggested:
    """The images to label, out of so many scored `images`, `labelled` of them labelled already.

    `spread` says what told images apart, embeddings or scores; it is empty for images drawn at
    random, which are for the split `validation`. `fingerprint` is that of the scores,
    `notices` are sentences for the user.
    """

    asked: list[Asked]
    images: int
    labelled: int
    spread: str
    categories: list[str]
    metadata: dict[str, str]
    scores: str
    fingerprint: str
    notices: list[str]


def suggest(
    scores: str,
    count: int,
    labels: str | None = None,
    activations: str | None = None,
    patients: str | None = None,
    weights: str | None = None,
) -> Suggested:
    """Choose `count` images of a scoring run to label next (`sdmad.scoring.suggestions.choice`).

    Images in the label table `labels` are not asked. `patients` is a table with `patient_id`: with
    it, images of patients in the test split are not asked either. `activations` are those of the
    same archive, `weights` the place of their backbone's weights if they have moved. Raises
    `UserError` if something is missing or does not belong together, or if no image is left.
    """
    pool = _Unlabelled.open(scores, labels, patients)
    names = pool.run.categories
    archive = pool.run.metadata["archive"]
    search = None if activations is None else _open(activations, archive, scores, weights)
    candidates = collect(scores, pool.run, depth(count), pool.known)
    pool.check_left(candidates.images, candidates.table)
    candidates, features, theirs, notices = _features(candidates, search, names)
    if candidates.not_asked:
        notices.append(
            "images of patients in the test split are not asked: training would not use them"
        )
    scored = all_scores(candidates.table, names)
    picks = choose(
        Pool(
            evidence=evidence(candidates.table, names),
            scores=scored,
            features=features,
            known=theirs,
            thresholds=candidates.thresholds,
            labelled=_labelled(pool.labels, len(names)),
            found=candidates.found,
        ),
        count,
    )
    rows, categories = candidates.table.to_pylist(), [*names, NORMAL]
    asked = [
        pool.ask(rows[p.row], categories[p.category], p.reason, float(scored[p.row, p.category]))
        for p in picks
    ]
    labelled, spread = candidates.known.num_rows, "scores" if search is None else "embeddings"
    return pool.suggested(asked, count, candidates.images, labelled, spread, notices)


def suggest_at_random(
    scores: str, count: int, labels: str | None = None, patients: str | None = None
) -> Suggested:
    """Draw `count` images of a scoring run, for calibration; the arguments are those of `suggest`.

    Raises `UserError` as `suggest` does.
    """
    pool = _Unlabelled.open(scores, labels, patients)
    sample = draw(scores, pool.run, count, pool.known)
    pool.check_left(sample.images, sample.table)
    asked = [pool.ask(row, "", RANDOM, float(row[ANOMALY])) for row in sample.table.to_pylist()]
    return pool.suggested(asked, count, sample.images, sample.labelled, "", [])


@dataclass(frozen=True)
class _Unlabelled:
    """A scoring run, and what is known of its images."""

    scores: str
    run: ScoredRun
    labels: LabelTable | None
    known: Known

    @staticmethod
    def open(scores: str, labels: str | None, patients: str | None) -> "_Unlabelled":
        run = ScoredRun.open(scores)
        archive = run.metadata["archive"]
        table = None if labels is None else load_labels(labels, run.categories, archive)
        owners = None if patients is None else load_groups(patients, "patient_id", archive)
        return _Unlabelled(scores, run, table, Known(table, owners))

    def check_left(self, images: int, left: pa.Table) -> None:
        """Raise `UserError` if no image of the run can be asked."""
        if not images:
            raise self.run.nothing(self.scores)
        if not left.num_rows:
            raise UserError(
                f"every image of {self.scores} is labelled already, or of a test patient"
            )

    def ask(self, row: dict[str, Any], category: str, reason: str, score: float) -> Asked:
        name = str(row["archive"]), str(row["member"])
        return Asked(row, category, reason, score, self.known.patient(name))

    def suggested(
        self,
        asked: list[Asked],
        count: int,
        images: int,
        labelled: int,
        spread: str,
        notices: list[str],
    ) -> Suggested:
        said = [*self.run.notices(self.scores), *notices]
        if len(asked) < count:
            said.append(f"only {counted(len(asked), 'image')} can be asked, not {count}")
        return Suggested(
            asked=asked,
            images=images,
            labelled=labelled,
            spread=spread,
            categories=self.run.categories,
            metadata=self.run.metadata,
            scores=self.scores,
            fingerprint=fingerprint(self.run.metadata, self.run.units),
            notices=said,
        )


def _labelled(table: LabelTable | None, categories: int) -> np.ndarray:
    """The numbers of images in the pool (C + 1,) by category, and of normal ones."""
    if table is None:
        return np.zeros(categories + 1, int)
    labels = table.labels[table.split == "pool"]
    return np.append(labels.sum(axis=0), (~labels.any(axis=1)).sum())


def _open(activations: str, archive: str, scores: str, weights: str | None) -> "Search":
    # Here, because it needs PyTorch and open_clip, which scores alone do not.
    from sdmad.scoring.similar import Search

    search = Search.open(activations, weights)
    if search.stored.archive.rstrip("/") != archive.rstrip("/"):
        raise UserError(
            f"the activations {activations} are of {search.stored.archive}, and the scores "
            f"{scores} of {archive}; give the activations of the same archive"
        )
    return search


def _features(
    candidates: Candidates, search: "Search | None", categories: list[str]
) -> tuple[Candidates, np.ndarray, np.ndarray, list[str]]:
    """What tells images apart: features (N, F) of candidates and (K, F) of labelled images.

    Candidates without activations are left out, which a notice says.
    """
    table, known = candidates.table, candidates.known
    if search is None:
        told = (
            "images are told apart by their scores, which are alike for many different images; "
            "give --activations to compare embeddings"
        )
        features, theirs = (values(some, "logit", categories) for some in (table, known))
        return candidates, features, theirs, [told]
    uris = [*table["uri"].to_pylist(), *known["uri"].to_pylist()]
    found = search.embeddings(uris)
    there = np.isfinite(found).all(axis=1)
    mine, also = there[: table.num_rows], there[table.num_rows :]
    if not mine.any():
        raise UserError(
            f"the activations {search.activations} have none of these images; run `sdmad encode` "
            "again"
        )
    notices = []
    if not mine.all():
        lost = counted(int((~mine).sum()), "image")
        notices.append(f"{lost} without activations are not asked; run `sdmad encode` again")
    features = found[: table.num_rows][mine]
    kept = replace(candidates, table=table.filter(pa.array(mine)))
    return kept, features, found[table.num_rows :][also], notices
