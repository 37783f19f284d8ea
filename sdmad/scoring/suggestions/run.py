"""What to label next, from the tables of a scoring run.

found = suggest("runs/scores", 50, labels="labels.csv", activations="runs/activations")
found.asked[0].row["uri"], found.asked[0].category, found.asked[0].reason
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from sdmad.errors import UserError
from sdmad.inputs.groups import load_groups
from sdmad.inputs.label_studio import NORMAL
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.scoring.groups.run import fingerprint
from sdmad.scoring.ranking import ScoredRun
from sdmad.scoring.similar import Search
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
    run = ScoredRun.open(scores)
    archive = run.metadata["archive"]
    table = None if labels is None else load_labels(labels, run.categories, archive)
    owners = None if patients is None else load_groups(patients, "patient_id", archive)
    search = None if activations is None else _open(activations, archive, scores, weights)
    known = Known(table, owners)
    candidates = collect(scores, run, depth(count), known)
    if not candidates.images:
        raise run.nothing(scores)
    notices = run.notices(scores)
    if candidates.not_asked:
        notices.append(
            "images of patients in the test split are not asked: training would not use them"
        )
    if not candidates.table.num_rows:
        raise UserError(f"every image of {scores} is labelled already, or of a test patient")
    candidates, features, theirs, more = _features(candidates, search, run.categories)
    scored = all_scores(candidates.table, run.categories)
    pool = Pool(
        evidence=evidence(candidates.table, run.categories),
        scores=scored,
        features=features,
        known=theirs,
        thresholds=candidates.thresholds,
        labelled=_labelled(table, len(run.categories)),
        found=candidates.found,
    )
    asked = []
    rows, categories = candidates.table.to_pylist(), [*run.categories, NORMAL]
    for pick in choose(pool, count):
        row, category = rows[pick.row], categories[pick.category]
        name = str(row["archive"]), str(row["member"])
        score = float(scored[pick.row, pick.category])
        asked.append(Asked(row, category, pick.reason, score, known.patient(name)))
    if len(asked) < count:
        notices.append(f"only {counted(len(asked), 'image')} can be asked, not {count}")
    return Suggested(
        asked=asked,
        images=candidates.images,
        labelled=candidates.known.num_rows,
        spread="scores" if search is None else "embeddings",
        categories=run.categories,
        metadata=run.metadata,
        scores=scores,
        fingerprint=fingerprint(run.metadata, run.units),
        notices=[*notices, *more],
    )


def suggest_at_random(
    scores: str, count: int, labels: str | None = None, patients: str | None = None
) -> Suggested:
    """Draw `count` images of a scoring run, for calibration; the arguments are those of `suggest`.

    Raises `UserError` as `suggest` does.
    """
    run = ScoredRun.open(scores)
    archive = run.metadata["archive"]
    table = None if labels is None else load_labels(labels, run.categories, archive)
    owners = None if patients is None else load_groups(patients, "patient_id", archive)
    known = Known(table, owners)
    sample = draw(scores, run, count, known)
    if not sample.images:
        raise run.nothing(scores)
    if not sample.table.num_rows:
        raise UserError(f"every image of {scores} is labelled already, or of a test patient")
    notices = run.notices(scores)
    asked = []
    for row in sample.table.to_pylist():
        name = str(row["archive"]), str(row["member"])
        asked.append(Asked(row, "", RANDOM, float(row[ANOMALY]), known.patient(name)))
    if len(asked) < count:
        notices.append(f"only {counted(len(asked), 'image')} can be asked, not {count}")
    return Suggested(
        asked=asked,
        images=sample.images,
        labelled=sample.labelled,
        spread="",
        categories=run.categories,
        metadata=run.metadata,
        scores=scores,
        fingerprint=fingerprint(run.metadata, run.units),
        notices=notices,
    )


def _labelled(table: LabelTable | None, categories: int) -> np.ndarray:
    """The numbers of images in the pool (C + 1,) by category, and of normal ones."""
    if table is None:
        return np.zeros(categories + 1, int)
    labels = table.labels[table.split == "pool"]
    return np.append(labels.sum(axis=0), (~labels.any(axis=1)).sum())


def _open(activations: str, archive: str, scores: str, weights: str | None) -> Search:
    search = Search.open(activations, weights)
    if search.stored.archive.rstrip("/") != archive.rstrip("/"):
        raise UserError(
            f"the activations {activations} are of {search.stored.archive}, and the scores "
            f"{scores} of {archive}; give the activations of the same archive"
        )
    return search


def _features(
    candidates: Candidates, search: Search | None, categories: list[str]
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
