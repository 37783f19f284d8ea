"""The candidates of a scoring run: the images that could be asked, from its tables, read once.

    candidates = collect(scores, run, size, known)
    candidates.table["uri"], evidence(candidates.table, run.categories)

For each category the most likely positives are kept and those nearest to the threshold, so memory
does not grow with the number of images. Images that are labelled already are set apart.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdmad.inputs.groups import GroupTable
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.matching import NameIndex
from sdmad.method.threshold import FINDING_THRESHOLD
from sdmad.scoring import tables
from sdmad.scoring.ranking import ScoredRun
from sdmad.scoring.suggestions.choice import REASONS, keys

NAMES = ("uri", "archive", "member")
ANOMALY = "anomaly_score"


@dataclass
class Highest:
    """The rows of a stream with the highest keys, at most `size`; of equal ones the first."""

    size: int
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rows: pa.Table | None = None

    def better(self, keys: np.ndarray) -> np.ndarray:
        """Which of further rows (N,) would be kept."""
        return keys > (self.keys[-1] if len(self.keys) == self.size else -np.inf)

    def add(self, keys: np.ndarray, part: pa.Table) -> None:
        """Add the rows of `part` with `keys` (N,)."""
        few = np.flatnonzero(self.better(keys))
        if not len(few):
            return
        few = few[np.argsort(-keys[few], kind="stable")[: self.size]]
        every = np.concatenate([self.keys, keys[few]])
        order = np.argsort(-every, kind="stable")[: self.size]
        some = part.take(pa.array(few))
        both = some if self.rows is None else pa.concat_tables([self.rows, some])
        self.keys, self.rows = every[order], both.take(pa.array(order)).combine_chunks()


class Known:
    """The images that must not be asked: labelled ones, and those of patients in the test split.

    `patients` says whose the images are; without it only labelled images are known.
    """

    def __init__(self, labels: LabelTable | None, patients: GroupTable | None) -> None:
        self.labels, self.patients = labels, patients
        names = [] if labels is None else zip(labels.archive, labels.member, strict=True)
        self._index = NameIndex(names)
        self._members = pa.array({member for _, member in self._index.alike}, pa.string())
        self._patients = NameIndex([] if patients is None else patients.names)
        self._tested = set() if labels is None else set(labels.patient[labels.split == "test"])

    def labelled(self, part: pa.Table) -> np.ndarray:
        """Which rows (N,) of a score table are in the label table."""
        found = np.zeros(part.num_rows, bool)
        if not len(self._members):
            return found
        members = pc.utf8_normalize(part["member"], "NFC")
        members = pc.replace_substring_regex(members, r"^(\./+)+", "")
        for row in np.flatnonzero(pc.is_in(members, self._members).to_numpy()):
            name = part["archive"][row].as_py(), part["member"][row].as_py()
            found[row] = self._index.find(name) is not None
        return found

    def patient(self, name: tuple[str, str]) -> str:
        """The patient of an image (archive, member); empty if not known."""
        row = self._patients.find(name)
        if row is None or self.patients is None:
            return ""
        group = int(self.patients.of_image[row])
        return self.patients.groups[group] if group >= 0 else ""

    def tested(self, part: pa.Table) -> np.ndarray:
        """Which rows (N,) are of patients in the test split."""
        found = np.zeros(part.num_rows, bool)
        if self._tested and self.patients is not None:
            names = zip(part["archive"].to_pylist(), part["member"].to_pylist(), strict=True)
            found[:] = [self.patient(name) in self._tested for name in names]
        return found


@dataclass(frozen=True)
class Candidates:
    """Candidates in `table`, labelled images in `known`, with the same columns.

    `thresholds` (C + 1,) are those of findings, normal last. `images` are all scored ones, `found`
    (C + 1,) those with each finding and without any, `not_asked` images of patients in the test
    split that would have been candidates.
    """

    table: pa.Table
    known: pa.Table
    thresholds: np.ndarray
    images: int
    found: np.ndarray
    not_asked: int


def collect(scores: str, run: ScoredRun, size: int, known: Known) -> Candidates:
    """Read the tables of a run; `size` candidates are kept of each category and reason."""
    names = run.categories
    collected = _Collected(names, run.metadata.get("thresholds"), size, known)
    for part in tables.read_parts(scores, "scores", run.units, [*collected.columns, "findings"]):
        collected.add(part)
    return collected.candidates()


@dataclass(frozen=True)
class Sample:
    """Images drawn at random, in `table`, out of `images`, `labelled` of them labelled already."""

    table: pa.Table
    images: int
    labelled: int


def draw(scores: str, run: ScoredRun, count: int, known: Known) -> Sample:
    """At most `count` images of a run that are neither labelled nor of patients in the test split.

    Every image is as likely as any other, whatever its scores: those with the lowest digests of
    their URIs. The same tables give the same images, and a larger count adds to a smaller one.
    """
    kept, images, labelled = Highest(count), 0, 0
    for part in tables.read_parts(scores, "scores", run.units, [*NAMES, ANOMALY]):
        images += part.num_rows
        there = known.labelled(part)
        labelled += int(there.sum())
        part = part.filter(pa.array(~there))
        digests = np.array([_digest(uri) for uri in part["uri"].to_pylist()])
        rows = np.flatnonzero(kept.better(-digests))
        rows = rows[~known.tested(part.take(pa.array(rows)))]
        kept.add(-digests[rows], part.take(pa.array(rows)))
    none = pa.table({name: pa.array([], pa.string()) for name in NAMES})
    return Sample(none if kept.rows is None else kept.rows, images, labelled)


def _digest(uri: str) -> float:
    """A number from 0 to 1 that depends on the URI alone."""
    content = hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(content, "big") / (1 << 48)


class _Collected:
    """What is kept while the tables pass."""

    def __init__(self, names: list[str], thresholds: str | None, size: int, known: Known) -> None:
        self.names, self.known = names, known
        given = thresholds.split(";") if thresholds else [FINDING_THRESHOLD] * len(names)
        self.thresholds = np.array([*given, FINDING_THRESHOLD], float)
        self.columns = [*NAMES, ANOMALY]
        for kind in ("score", "logit"):
            self.columns += [f"{kind}_{name}" for name in names]
        kinds = [(name, pa.string() if name in NAMES else pa.float32()) for name in self.columns]
        self.schema = pa.schema(kinds)
        every = range(len(self.thresholds))
        self.kept = {(c, reason): Highest(size) for c in every for reason in REASONS}
        self.labelled: list[pa.Table] = []
        self.images = self.not_asked = 0
        self.found = np.zeros(len(self.thresholds), int)

    def add(self, part: pa.Table) -> None:
        """Add a score table."""
        self.images += part.num_rows
        findings = tables.finding_matrix(part["findings"], self.names)
        self.found += np.column_stack([findings, ~findings.any(axis=1)]).sum(axis=0)
        part = part.select(self.columns).cast(self.schema)
        labelled = self.known.labelled(part)
        if labelled.any():
            self.labelled.append(part.filter(pa.array(labelled)))
            part = part.filter(pa.array(~labelled))
        ranks = self._ranks(part)
        wanted = np.any([self.kept[key].better(rank) for key, rank in ranks.items()], axis=0)
        rows = np.flatnonzero(wanted)
        tested = self.known.tested(part.take(pa.array(rows)))
        self.not_asked += int(tested.sum())
        rows = rows[~tested]
        part = part.take(pa.array(rows))
        for key, rank in ranks.items():
            self.kept[key].add(rank[rows], part)

    def _ranks(self, part: pa.Table) -> dict[tuple[int, str], np.ndarray]:
        """What the rows (N,) are ranked by, for each category and reason."""
        likely, scores = evidence(part, self.names), all_scores(part, self.names)
        return {
            (c, reason): keys(reason, likely[:, c], scores[:, c], float(self.thresholds[c]))
            for c, reason in self.kept
        }

    def candidates(self) -> Candidates:
        """Each candidate once, in the order of their URIs."""
        every = [best.rows for best in self.kept.values() if best.rows is not None]
        table = pa.concat_tables(every) if every else self.schema.empty_table()
        _, first = np.unique(np.array(table["uri"].to_pylist(), str), return_index=True)
        known = pa.concat_tables(self.labelled) if self.labelled else self.schema.empty_table()
        return Candidates(
            table=table.take(pa.array(first)).combine_chunks(),
            known=known.combine_chunks(),
            thresholds=self.thresholds,
            images=self.images,
            found=self.found,
            not_asked=self.not_asked,
        )


def evidence(table: pa.Table, names: list[str]) -> np.ndarray:
    """What likely positives are ranked by (N, C + 1): the logit of a category, and for normal the
    anomaly score, negative."""
    anomaly = table[ANOMALY].to_numpy().astype(float)
    return np.column_stack([values(table, "logit", names), -anomaly])


def all_scores(table: pa.Table, names: list[str]) -> np.ndarray:
    """Scores (N, C + 1); that of normal is 1 - the anomaly score."""
    anomaly = table[ANOMALY].to_numpy().astype(float)
    return np.column_stack([values(table, "score", names), 1 - anomaly])


def values(table: pa.Table, kind: str, names: list[str]) -> np.ndarray:
    """The columns `kind` of all categories (N, C), `score` or `logit`."""
    columns = [table[f"{kind}_{name}"].to_numpy() for name in names]
    return np.stack(columns, axis=1).astype(float)
