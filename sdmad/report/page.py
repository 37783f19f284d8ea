"""Builds the page from an evaluated run."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from sdmad import storage
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.evaluation.measure import ENSEMBLE, HEADLINES, ScoredTest, over_seeds, paired_difference
from sdmad.fits import code_version
from sdmad.protocols import LEAST_POSITIVES, Summary
from sdmad.report import examples, figures

HERE = Path(__file__).parent


def write_report(
    test: ScoredTest,
    measured: pd.DataFrame,
    output: str,
    baselines: dict[str, pd.DataFrame],
) -> str:
    """Write `report.html`; returns its URI."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda value: "-" if np.isnan(value) else f"{100 * value:.1f}"
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    page = environment.get_template("page.html").render(_context(test, measured, baselines))
    uri = storage.join(output, "report.html")
    storage.write_bytes(uri, page.encode())
    return uri


def _context(
    test: ScoredTest, measured: pd.DataFrame, baselines: dict[str, pd.DataFrame]
) -> dict[str, Any]:
    single = measured[measured.category == ""].set_index(["protocol", "metric", "seed"]).value
    names = test.seed_names[: test.seeds.shape[2]]
    ensemble = {key: float(single[(*key, ENSEMBLE)]) for key in HEADLINES}
    by_seed = {
        key: np.array([single[(*key, seed)] for seed in names]) if names else np.array([])
        for key in HEADLINES
    }
    pictures = _pictures(test)
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": code_version(),
        "test": test,
        "counts": _counts(test),
        "headlines": HEADLINES,
        "summary": over_seeds(measured),
        "ensemble": ensemble,
        "num_seeds": len(names),
        "categories": _category_rows(test, measured),
        "least": LEAST_POSITIVES,
        "baselines": [
            {
                "name": name,
                "summary": over_seeds(theirs),
                "difference": paired_difference(measured, theirs),
            }
            for name, theirs in baselines.items()
        ],
        "roc": figures.roc_by_category(test, _titles(test)),
        "spread": figures.seed_spread(
            {HEADLINES[k]: v for k, v in by_seed.items() if len(v)},
            {HEADLINES[k]: v for k, v in ensemble.items()},
        )
        if names
        else "",
        "histograms": figures.score_histograms(test, _titles(test)),
        "verdict_of": _verdict_of,
        **pictures,
    }


def _titles(test: ScoredTest) -> list[str]:
    return [name.replace("_", " ") for name in test.table.categories]


def _counts(test: ScoredTest) -> dict[str, int]:
    return {
        "images": len(test.table),
        "normal": int((~test.truth.any(axis=1)).sum()),
        "several": int((test.truth.sum(axis=1) > 1).sum()),
        "patients": len(set(test.table.patient)),
        "missing": test.missing,
        "uncertain": sum(bool(row) for row in test.rows["uncertain"].to_pylist()),
    }


def _category_rows(test: ScoredTest, measured: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    found = test.scores > 0.5
    for c, category in enumerate(test.table.categories):
        values = over_seeds(measured, category)
        truth = test.truth[:, c]
        rows.append(
            {
                "name": category,
                "images": int(truth.sum()),
                "normal": values["category discrimination", "normal"],
                "others": values["category discrimination", "others"],
                "sensitivity": _share(found[truth, c]),
                "specificity": _share(~found[~truth, c]),
                "spread": float(test.rows[f"spread_{category}"].to_numpy().mean()),
            }
        )
    return rows


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def _verdict_of(difference: Summary) -> str:
    if np.isnan(difference.low) or difference.low <= 0 <= difference.high:
        return "tied"
    return "better" if difference.mean > 0 else "worse"


def _pictures(test: ScoredTest) -> dict[str, Any]:
    """Gallery and heatmap; a sentence instead when detector or archive cannot be reached."""
    try:
        detector = Detector.load(test.metadata["detector_uri"])
    except UserError as error:
        return {"gallery": [], "heatmap": "", "heatmap_note": f"Not shown: {error}."}
    groups = examples.heatmap_rows(test)
    wanted = np.unique(np.concatenate([*groups.values(), examples.choose_examples(test)]))
    try:
        pixels = examples.read_pixels(test, wanted.astype(int), detector)
    except (UserError, FileNotFoundError):
        pixels = {}
    means = examples.mean_similarities(detector, groups, pixels)
    if not means:
        return {
            "gallery": [],
            "heatmap": "",
            "heatmap_note": "Not shown: no test image can be read from the archive.",
        }
    catalog = detector.catalog
    members = dict(zip(catalog.category_names, catalog.membership, strict=True))
    members["normal"] = catalog.normal_membership
    heatmap = figures.sign_heatmap(
        np.stack(list(means.values()), axis=1),
        np.stack([members[name] for name in means], axis=1),
        catalog.sign_names,
        [name.replace("_", " ") for name in means],
    )
    return {"gallery": examples.gallery(test, pixels), "heatmap": heatmap, "heatmap_note": ""}
