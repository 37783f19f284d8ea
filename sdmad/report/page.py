"""The report page (`report.html`) of an evaluated run.

uri = write_report(test, measure(test), "runs/report", {}, inspect(test))
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from sdmad import storage
from sdmad.detector import FINDING_THRESHOLD, LEAST_SHARE, SIGNS_PER_FINDING
from sdmad.evaluation.audit import SignAudit
from sdmad.evaluation.by_group import Grouped
from sdmad.evaluation.measure import ENSEMBLE, HEADLINES, ScoredTest, compare_runs, over_seeds
from sdmad.evaluation.protocols import LEAST_POSITIVES, Summary
from sdmad.evaluation.remarks import (
    LEAST_FINDINGS,
    Remark,
    advice_withheld,
    remarks,
)
from sdmad.fits import code_version
from sdmad.fitting import sight
from sdmad.report import plots
from sdmad.report.decisions import SPECIFICITY, OperatingPoint, confusion, operating_point
from sdmad.report.heatmaps import confusion_heatmap
from sdmad.report.inspection import Inspection
from sdmad.report.templates import templates
from sdmad.report.words import plain_words

SHARDS_SHOWN = 12
REMARK_TAGS = {
    "carries": "named",
    "silent": "too few findings",
    "never": "never named",
    "contradicted": "fails on support",
    "shared": "shared signs",
    "alike": "not separated",
}
CHECKS = {
    "never": "signs that no finding names",
    "contradicted": "signs that fail on the support",
    "shared": "categories that rely on shared signs",
    "alike": "pairs of categories that their signs do not separate",
}


def write_report(
    test: ScoredTest,
    measured: pd.DataFrame,
    output: str,
    baselines: dict[str, pd.DataFrame],
    inspection: Inspection,
    grouped: Grouped | None = None,
    reasons: Sequence[str] = (),
    sources: dict[str, str] | None = None,
) -> str:
    """Write `report.html` under `output` and return its URI.

    `measured` has the metrics of `test`, `baselines` those of other runs by name, `grouped` those
    by group; `reasons` say which runs have no deviation over seeds, and why. `sources` are the
    places of scores and labels, by what they are.
    """
    context = _context(test, measured, baselines, inspection)
    context |= {"grouped": grouped, "reasons": reasons, "sources": sources or {}}
    page = templates().get_template("page.html").render(context)
    uri = storage.join(output, "report.html")
    storage.write_bytes(uri, page.encode())
    return uri


def _context(
    test: ScoredTest,
    measured: pd.DataFrame,
    baselines: dict[str, pd.DataFrame],
    inspection: Inspection,
) -> dict[str, Any]:
    single = measured[measured.category == ""].set_index(["protocol", "metric", "seed"]).value
    names = test.seed_names[: test.seeds.shape[2]]
    ensemble = {key: float(single[(*key, ENSEMBLE)]) for key in HEADLINES}
    by_seed = {
        name: np.array([single[(*key, seed)] for seed in names]) for key, name in HEADLINES.items()
    }
    titles = [name.replace("_", " ") for name in test.table.categories]
    named = {HEADLINES[key]: value for key, value in ensemble.items()}
    compared = compare_runs(measured, baselines)
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": code_version(),
        "test": test,
        "counts": _counts(test),
        "several": len(titles) > 1,
        "words": plain_words(test),
        "backbone": _backbone(inspection),
        "shards": _shards(test),
        "chance": float(test.truth.any(axis=1).mean()),
        "decided": test.decided,
        "states_prevalence": test.states_prevalence,
        "protocols": _by_protocol(),
        "summary": over_seeds(measured),
        "ensemble": ensemble,
        "num_seeds": len(names),
        "categories": _rows(test, measured),
        "least": LEAST_POSITIVES,
        "specificity": SPECIFICITY,
        "baselines": [
            {
                "name": name,
                "summary": over_seeds(theirs),
                "difference": compared[name],
            }
            for name, theirs in baselines.items()
        ],
        "num_comparisons": sum(np.isfinite(d.p) for ds in compared.values() for d in ds.values()),
        "spread": plots.seed_spread(by_seed, named) if names else "",
        "roc": plots.roc_by_category(test, titles),
        "confusion": confusion_heatmap(confusion(test.truth, test.found), titles),
        "calibration": plots.calibration_curves(test, titles),
        "histograms": plots.score_histograms(test, titles),
        "inspection": inspection,
        "signs": _sign_section(inspection.audit) if inspection.audit else None,
    }


def _backbone(inspection: Inspection) -> str:
    known = inspection.audit.backbone_auroc if inspection.audit else float("nan")
    return sight.in_words(known) if np.isfinite(known) else ""


def _shards(test: ScoredTest) -> str:
    """The shards of the test images in words."""
    names = list(dict.fromkeys(str(name) for name in test.table.archive if name))
    loose = int((test.table.archive == "").sum())
    listed = ", ".join(names[:SHARDS_SHOWN])
    more = f" and {len(names) - SHARDS_SHOWN:,} more" if len(names) > SHARDS_SHOWN else ""
    parts = [f"{listed}{more}"] if names else []
    return "; ".join([*parts, *([f"{loose:,} loose images"] if loose else [])])


def _by_protocol() -> dict[str, dict[tuple[str, str], str]]:
    """The headline metrics of each protocol."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for key, name in HEADLINES.items():
        found.setdefault(key[0], {})[key] = name
    return found


def _counts(test: ScoredTest) -> dict[str, int]:
    return {
        "images": len(test.table),
        "normal": int((~test.truth.any(axis=1)).sum()),
        "several": int((test.truth.sum(axis=1) > 1).sum()),
        "patients": len(set(test.table.patient)),
        "missing": test.missing,
        "uncertain": sum(bool(row) for row in test.rows["uncertain"].to_pylist()),
    }


@dataclass(frozen=True)
class CategoryRow:
    """One row of the table of categories: a category, or any anomaly.

    `normal` and `others` are AUROCs over seeds; sensitivity and specificity are at the finding
    threshold; `spread` is the mean standard deviation of a score over seeds.
    """

    name: str
    images: int
    normal: Summary
    others: Summary | None
    sensitivity: float
    specificity: float
    point: OperatingPoint
    spread: float


def _rows(test: ScoredTest, measured: pd.DataFrame) -> list[CategoryRow]:
    """The rows of all categories, and of any anomaly where there are several."""
    rows = _category_rows(test, measured)
    return [_any_anomaly(test, measured), *rows] if len(rows) > 1 else rows


def _any_anomaly(test: ScoredTest, measured: pd.DataFrame) -> CategoryRow:
    row = _row(
        "any anomaly",
        np.asarray(test.truth.any(axis=1)),
        test.anomaly,
        FINDING_THRESHOLD,
        normal=over_seeds(measured)["anomaly detection", "auroc"],
        others=None,
        spread=float("nan"),
    )
    if test.decided:
        # A decision file decides on categories alone.
        row = replace(row, sensitivity=float("nan"), specificity=float("nan"))
    return row


def _category_rows(test: ScoredTest, measured: pd.DataFrame) -> list[CategoryRow]:
    rows = []
    for c, category in enumerate(test.table.categories):
        values = over_seeds(measured, category)
        rows.append(
            _row(
                category,
                test.truth[:, c],
                test.scores[:, c],
                float(test.thresholds[c]),
                normal=values["category discrimination", "normal"],
                others=values["category discrimination", "others"],
                spread=float(test.rows[f"spread_{category}"].to_numpy().mean())
                if len(test.seed_names) > 1
                else float("nan"),
            )
        )
    return rows


def _row(
    name: str,
    truth: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    normal: Summary,
    others: Summary | None,
    spread: float,
) -> CategoryRow:
    found = scores > np.float32(threshold)
    return CategoryRow(
        name=name,
        images=int(truth.sum()),
        normal=normal,
        others=others,
        sensitivity=_share(found[truth]),
        specificity=_share(~found[~truth]),
        point=operating_point(truth, scores),
        spread=spread,
    )


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


@dataclass(frozen=True)
class SignSection:
    """The sign audit as shown on the page.

    `advice` and `carries` are remarks, `absent` names the checks without a remark. `signs` are the
    rows of the table of signs by category, `pairs` those with shared signs or without separation.
    `least` is the number of findings from which signs are judged. A finding names at most
    `most_named` signs, each with at least `least_share` of the sign evidence. `withheld`: the
    backbone hardly sees the signs, so there is no advice.
    """

    advice: list[Remark]
    absent: list[str]
    carries: list[Remark]
    signs: dict[str, list[Any]]
    pairs: list[Any]
    least: int
    most_named: int
    least_share: float
    tags: dict[str, str]
    knows_contradicted: bool
    knows_test: bool
    withheld: bool


def _sign_section(result: SignAudit) -> SignSection:
    made = remarks(result)
    signs, pairs = result.signs, result.pairs
    knows_contradicted = bool(signs.contradicted.notna().any())
    looked_for = {kind for kind in CHECKS if kind != "contradicted" or knows_contradicted}
    absent = looked_for - {remark.kind for remark in made}
    return SignSection(
        advice=sorted(
            (remark for remark in made if remark.is_advice),
            key=lambda r: list(CHECKS).index(r.kind),
        ),
        absent=[text for kind, text in CHECKS.items() if kind in absent],
        carries=[remark for remark in made if not remark.is_advice],
        signs={
            str(category): list(rows.sort_values("weight", ascending=False).itertuples())
            for category, rows in signs.groupby("category", sort=False)
        },
        pairs=list(pairs[(pairs.shared != "") | ~pairs.apart.astype(bool)].itertuples()),
        least=LEAST_FINDINGS,
        most_named=SIGNS_PER_FINDING,
        least_share=LEAST_SHARE,
        tags=REMARK_TAGS,
        knows_contradicted=knows_contradicted,
        knows_test=bool(signs.test_auroc.notna().any()),
        withheld=advice_withheld(result),
    )
