"""Fit a decision file: thresholds at a target and calibrated probabilities, from labelled images.

    file = calibrate(run, labels, target, prevalences, options)

The images are those of the split `validation`, or of the pool where a table has none. Support
images of the detector, their patients and patients of the test split are left out. Shapes: N
images, C categories, P patients, R bootstrap replicates.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from sklearn.metrics import roc_auc_score

from sdmad import storage
from sdmad.errors import UserError
from sdmad.evaluation.measure import ScoredTest, join_scores
from sdmad.evaluation.platt import fit_probabilities
from sdmad.evaluation.thresholds import LEAST_EACH, Target, choose, exact_interval
from sdmad.fits import code_version, fits_digest, load_fits
from sdmad.inputs.labels import VALIDATION, LabelTable, load_labels
from sdmad.inputs.matching import NameIndex
from sdmad.inputs.support import draw_support, support_digest
from sdmad.logs import Notice
from sdmad.method.decision import Decision
from sdmad.scoring.decisions import CategoryDecision, DecisionFile, Rate, read_decision
from sdmad.scoring.plan import open_plan
from sdmad.scoring.redecide import check_undecided
from sdmad.words import counted

REPLICATES_AT_ONCE = 50
BINS = 200
SEED = 0


@dataclass(frozen=True)
class Options:
    """How to calibrate.

    `split` None takes `validation` where the label table has it, else `pool`. `training_labels` is
    the label table that the detector was trained with, if it is another one. Categories in
    `as_scored` are not calibrated.
    """

    split: str | None = None
    training_labels: str | None = None
    detector: str | None = None
    as_scored: tuple[str, ...] = ()
    bootstrap: int = 1000


def calibrate(
    scores: str,
    labels_uri: str,
    target: Target,
    prevalence: dict[str, float],
    options: Options,
) -> tuple[DecisionFile, list[Notice]]:
    """The decision file for the scoring run at `scores`, and notices.

    `prevalence` is the share of images with a category where the detector will be used; by default
    the share in the split. Raises `UserError` if the split is the test split, if the support images
    are not known, or if too few patients carry the target.
    """
    if options.split == "test":
        raise UserError(
            "the test split is for `sdmad evaluate`, whose metrics would be too good if thresholds "
            "were chosen on it; label other images, with split 'validation'"
        )
    metadata, units = open_plan(scores)
    check_undecided(metadata, scores)
    categories = metadata["categories"].split(";")
    for name in (*prevalence, *options.as_scored):
        if name not in categories:
            raise UserError(
                f"there is no category {name!r} in {scores}; its categories are "
                f"{', '.join(categories)}"
            )
    labels = load_labels(labels_uri, categories, metadata["archive"])
    split = options.split or (VALIDATION if (labels.split == VALIDATION).any() else "pool")
    rows, left_out = _usable(labels, labels_uri, split, metadata, options)
    test = join_scores(scores, metadata, units, labels_uri, rows, split)
    left_out["not scored"] = test.missing
    _check_counts(test, target, options.as_scored, labels_uri)
    by_category = _fit_all(test, target, prevalence, options)
    file = DecisionFile(
        code_version=code_version(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        detector=metadata["detector"],
        detector_uri=metadata.get("detector_uri", ""),
        backbone=metadata.get("backbone", ""),
        catalog=metadata.get("catalog", ""),
        categories=categories,
        scores=scores,
        labels=labels_uri,
        split=split,
        images=len(test.table),
        patients=len(set(test.table.patient)),
        left_out={reason: count for reason, count in left_out.items() if count},
        target={target.kind: target.value},
        bootstrap=options.bootstrap,
        by_category=by_category,
    )
    return file, test.notices


def write_decision(file: DecisionFile, uri: str) -> None:
    """Write a decision file; `UserError` if another kind of file is in its place."""
    if storage.exists(uri):
        read_decision(uri)
    storage.write_bytes(uri, file.to_json())


def _usable(
    labels: LabelTable, labels_uri: str, split: str, metadata: dict[str, str], options: Options
) -> tuple[LabelTable, dict[str, int]]:
    """The rows of the split that neither the detector nor the test split knows, and the numbers of
    those left out by reason."""
    chosen = np.asarray(labels.split == split)
    if not chosen.any():
        raise UserError(f"the label table {labels_uri} has no row whose split is {split!r}")
    images, patients = _supports(labels, labels_uri, metadata, options)
    known = NameIndex(images)
    names = zip(labels.archive.tolist(), labels.member.tolist(), strict=True)
    support = np.array([name in known for name in names])
    of_patient = np.isin(labels.patient, list(patients | set(labels.patient[support]))) & ~support
    tested = np.isin(labels.patient, labels.patient[labels.split == "test"])
    left_out = {
        "support images": int((chosen & support).sum()),
        "other images of support patients": int((chosen & of_patient).sum()),
        "images of test patients": int((chosen & tested & ~support & ~of_patient).sum()),
    }
    rows = labels.where(chosen & ~support & ~of_patient & ~tested)
    if len(rows) == 0:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in left_out.items() if n)
        raise UserError(
            f"no image of the split {split!r} of {labels_uri} is left without {reasons}; label "
            "images of other patients, with split 'validation'"
        )
    return rows, left_out


def _supports(
    labels: LabelTable, labels_uri: str, metadata: dict[str, str], options: Options
) -> tuple[set[tuple[str, str]], set[str]]:
    """The support images of the detector, and their patients.

    They are drawn again from the label table, and compared with the digests in the fits.
    """
    uri = options.detector or metadata.get("detector_uri", "")
    fits = load_fits(uri)
    if fits_digest(fits) != metadata["detector"]:
        raise UserError(
            f"the detector at {uri} did not make these scores; give the one that did with "
            "--detector, because its support images are left out"
        )
    table, table_uri = labels, labels_uri
    if options.training_labels:
        table_uri = options.training_labels
        table = load_labels(table_uri, labels.categories, metadata["archive"])
    images: set[tuple[str, str]] = set()
    patients: set[str] = set()
    for fit in fits:
        known = fit.provenance
        try:
            rows = draw_support(table, known.shots, known.seed)
        except UserError:
            rows = np.zeros(0, int)
        names = list(zip(table.archive[rows].tolist(), table.member[rows].tolist(), strict=True))
        if support_digest(names, table.labels[rows]) != known.support_digest:
            raise UserError(
                f"the support images of seed {known.seed} of the detector cannot be drawn again "
                f"from {table_uri}, and must not be used here; give the label table that the "
                "detector was trained with, with --training-labels"
            )
        images |= set(names)
        patients |= set(table.patient[rows].tolist())
    return images, patients


def _check_counts(
    test: ScoredTest, target: Target, as_scored: tuple[str, ...], labels_uri: str
) -> None:
    """Raise `UserError` if too few patients carry the target or the probabilities."""
    problems, lacking, able = [], [], []
    for c, name in enumerate(test.table.categories):
        if name in as_scored:
            continue
        shown = test.truth[:, c]
        counts = [len(set(test.table.patient[mask])) for mask in (shown, ~shown)]
        needs = [target.needed_with, target.needed_without]
        if target.kind == "findings_a_thousand":
            counts[1], needs[1] = len(set(test.table.patient)), target.needed
        sides = ("with it", "without it" if target.kind != "findings_a_thousand" else "in all")
        short = [
            f"{counted(count, 'patient')} {side} of {need:,}"
            for count, need, side in zip(counts, needs, sides, strict=True)
            if count < need
        ]
        if short:
            lacking.append(name)
            problems.append(f"{name} has {' and '.join(short)}")
        if min(counts) >= LEAST_EACH:
            able.append(counts[0 if target.kind == "sensitivity" else 1])
    if problems:
        advice = "label more"
        if len(lacking) < len(test.table.categories) - len(as_scored):
            options = " ".join(f"--as-scored {name}" for name in lacking)
            advice += f", or leave these categories as they were scored, with {options}"
        elif able:
            other = target.shown_by(min(able))
            advice += f", or give a target that needs fewer, such as {other.option} {other.value:g}"
        raise UserError(
            f"too few labelled patients for {target.text} ({labels_uri}, split "
            f"{test.table.split[0]!r}): {'; '.join(problems)}; the target needs {target.needed:,} "
            f"({target.reason}), and probabilities need {LEAST_EACH} on each side; {advice}"
        )


def _fit_all(
    test: ScoredTest, target: Target, prevalence: dict[str, float], options: Options
) -> dict[str, CategoryDecision | None]:
    categories = test.table.categories
    names, patient = np.unique(test.table.patient, return_inverse=True)
    rng = np.random.default_rng(SEED)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), options.bootstrap)
    weights = counts.astype(np.float32)
    return {
        name: None
        if name in options.as_scored
        else _fit(test, c, target, prevalence.get(name), patient, weights)
        for c, name in enumerate(categories)
    }


def _fit(
    test: ScoredTest,
    c: int,
    target: Target,
    prevalence: float | None,
    patient: np.ndarray,
    replicates: np.ndarray,
) -> CategoryDecision:
    """The decision on category `c`; `replicates` (R, P) say how often patients are drawn."""
    name = test.table.categories[c]
    truth = test.truth[:, c]
    raw = test.rows[f"logit_{name}"].to_numpy()
    one = np.ones((1, len(truth)), np.float32)
    slopes, intercepts = fit_probabilities(raw.astype(float), one * truth, one * ~truth)
    share = float(truth.mean())
    shift = 0.0 if prevalence is None else _log_odds(prevalence) - _log_odds(share)
    slope, intercept = float(slopes[0]), float(intercepts[0]) + shift
    simple = Decision(
        (name,),
        np.array([slope]),
        np.array([intercept]),
        np.array([0.5]),
        np.array([[0.5, 0.5]]),
        np.array([False]),
    )
    scores = simple.scores(raw[:, None], raw[:, None])[:, 0]
    threshold = float(choose(target, scores, truth, one, prevalence)[0])
    found = replace(simple, threshold=np.array([threshold])).found(scores[:, None])[:, 0]
    thresholds, rates = [], []
    for some in np.array_split(replicates, max(1, -(-len(replicates) // REPLICATES_AT_ONCE))):
        weights = some[:, patient]
        thresholds.append(choose(target, scores, truth, weights, prevalence))
        rates.append(_rates(truth, found, weights, prevalence))
    sensitivity, specificity, findings = np.concatenate(rates, axis=1)
    value = _rates(truth, found, one, prevalence)[:, 0]
    bins, shown, missing = _binned(raw, truth, patient, replicates)
    slope_low, slope_high = _interval(fit_probabilities(bins, shown, missing)[0], slope)
    with_it, without = (len(np.unique(patient[mask])) for mask in (truth, ~truth))
    return CategoryDecision(
        threshold=threshold,
        threshold_interval=_interval(np.concatenate(thresholds), threshold),
        slope=slope,
        slope_interval=(slope_low, slope_high),
        intercept=intercept,
        prevalence=share if prevalence is None else prevalence,
        prevalence_of="split" if prevalence is None else "user",
        images_with=int(truth.sum()),
        images_without=int((~truth).sum()),
        patients_with=with_it,
        patients_without=without,
        auroc=float(roc_auc_score(truth, raw)),
        sensitivity=_rate(value[0], sensitivity, with_it),
        specificity=_rate(value[1], specificity, without),
        findings_a_thousand=Rate(
            value=1000 * value[2],
            low=1000 * _interval(findings, value[2])[0],
            high=1000 * _interval(findings, value[2])[1],
        ),
    )


def _log_odds(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))


def _rates(
    truth: np.ndarray, found: np.ndarray, weights: np.ndarray, prevalence: float | None
) -> np.ndarray:
    """Sensitivity, specificity, and share of findings at the prevalence: (3, R)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity = (
            weights @ (truth & found).astype(np.float32) / (weights @ truth.astype(np.float32))
        )
        missing = (~truth).astype(np.float32)
        specificity = weights @ (~truth & ~found).astype(np.float32) / (weights @ missing)
        share = weights @ truth.astype(np.float32) / weights.sum(axis=1)
    if prevalence is not None:
        share = np.full_like(share, prevalence)
    findings = share * np.nan_to_num(sensitivity) + (1 - share) * np.nan_to_num(1 - specificity)
    return np.stack([sensitivity, specificity, findings]).astype(np.float64)


def _interval(values: np.ndarray, value: float) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of bootstrap values; `value` itself without any."""
    values = values[np.isfinite(values)]
    if not len(values):
        return value, value
    low, high = np.quantile(values, (0.025, 0.975))
    return min(float(low), value), max(float(high), value)


def _rate(value: float, values: np.ndarray, patients: int) -> Rate:
    """A rate with its bootstrap interval; an exact one where all or no images are right, because
    resampling never shows another value."""
    if value in (0.0, 1.0):
        low, high = exact_interval(round(value * patients), patients)
    else:
        low, high = _interval(values, value)
    return Rate(value=value, low=low, high=high)


def _binned(
    logits: np.ndarray, truth: np.ndarray, patient: np.ndarray, replicates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean logits (B,) of bins of images, and the images (R, B) with and without the category."""
    edges = np.unique(np.quantile(logits, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, logits, side="right")
    bins, place = np.unique(place, return_inverse=True)
    counts = np.bincount(place)
    means = np.bincount(place, weights=logits) / counts
    sides = []
    for mask in (truth, ~truth):
        of_patient = np.zeros((replicates.shape[1], len(bins)), np.float32)
        np.add.at(of_patient, (patient[mask], place[mask]), 1)
        sides.append(replicates @ of_patient)
    return means, sides[0], sides[1]


def parse_prevalence(texts: list[str]) -> dict[str, float]:
    """The shares of `category=share` entries by category; `UserError` for any other form."""
    found: dict[str, float] = {}
    for text in texts:
        name, mark, number = text.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = -1
        if not (name and mark and 0 < share < 1):
            raise UserError(
                f"prevalence {text!r} does not have the form category=share, with a share between "
                "0 and 1, as in effusion=0.05"
            )
        found[name] = share
    return found


def parse_target(
    specificity: float | None, sensitivity: float | None, findings: float | None
) -> Target:
    """The one target that is given; `UserError` if there is none, several, or one out of range."""
    given = [
        (kind, value, most)
        for kind, value, most in (
            ("specificity", specificity, 1.0),
            ("sensitivity", sensitivity, 1.0),
            ("findings_a_thousand", findings, 1000.0),
        )
        if value is not None
    ]
    if len(given) != 1:
        raise UserError(
            "give one target: --specificity 0.95, --sensitivity 0.9 or --max-findings-a-thousand 20"
        )
    kind, value, most = given[0]
    target = Target(kind, value)
    if not 0 < value < most:
        raise UserError(f"{target.option} is {value:g}; it must be between 0 and {most:g}")
    return target
