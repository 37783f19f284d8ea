"""The sign audit, on a real detector that scored phantoms and on hand-made tables."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sdmad import Detector
from sdmad.errors import UserError
from sdmad.evaluation.audit import auc_on_support, audit, sign_weights, write_audit
from sdmad.evaluation.audit_tables import of_categories, of_pairs
from sdmad.evaluation.remarks import remarks
from sdmad.inputs.catalog import load_catalog, parse_catalog
from sdmad.method.selection import SelectionConfig
from sdmad.phantoms.task import CATEGORIES, draw_example
from sdmad.scoring.tables import ScoreColumns

SCHEMA = ScoreColumns(["c"], 1, False).schema
NO_FINDINGS = np.zeros((0, 2), object)


def score_table(findings: list[list[str]], signs: list[list[tuple[str, str]]]) -> pa.Table:
    """A score table with the two columns that the audit reads."""
    named = [[{"category": c, "sign": s, "similarity": 0.1} for c, s in row] for row in signs]
    return pa.table(
        {
            "findings": pa.array(findings, SCHEMA.field("findings").type),
            "signs": pa.array(named, SCHEMA.field("signs").type),
        }
    )


@pytest.fixture(scope="module")
def detector(training_run) -> Detector:
    return Detector.load(str(training_run))


@pytest.fixture(scope="module")
def scored(detector):
    """120 phantoms: scores, score table, labels."""
    examples = [draw_example(k, "test", seed=4) for k in range(120)]
    pixels = np.stack([np.repeat(e.image[..., None], 3, axis=2) for e in examples])
    scores = detector.score_pixels(pixels)
    signs = [[(e.category, e.sign) for e in row] for row in scores.signs]
    truth = np.array([[c in e.labels for c in CATEGORIES] for e in examples])
    return scores, score_table(scores.findings, signs), truth


def test_each_listed_sign_has_a_row_with_its_weight_in_the_detector(detector) -> None:
    result = audit(detector, score_table([[]], [[]]))
    catalog = detector.catalog
    listed = [(c, s) for c, category in catalog.categories.items() for s in category.signs]
    assert sorted(zip(result.signs.category, result.signs.sign, strict=True)) == sorted(listed)
    assert np.allclose(result.signs.groupby("category").weight.sum(), 1, atol=1e-5)
    row = result.signs.set_index(["category", "sign"]).loc[("abscess", "haze")]
    c, s = catalog.category_names.index("abscess"), catalog.sign_names.index("haze")
    assert row.weight == pytest.approx(float(detector.rule.weights[:, c, s].mean()))
    assert row.shared_with == "tumour;infarct"
    assert row[["contradicted", "carries", "leads", "test_auroc"]].isna().all()
    assert row.findings == 0


def test_without_reliability_weights_signs_have_equal_weights(detector, monkeypatch) -> None:
    monkeypatch.setattr(detector, "selection", SelectionConfig(mode="uncertain"))
    weights = sign_weights(detector)
    assert weights.shape == tuple(detector.rule.weights.shape)
    assert (weights[:, detector.catalog.category_names.index("infarct")].max(-1) == 0.2).all()


def test_shares_count_the_signs_named_in_the_score_table(detector) -> None:
    rows = score_table(
        [["tumour"], ["tumour", "abscess"], [], ["tumour"]],
        [
            [("tumour", "haze"), ("tumour", "bulge")],
            [("tumour", "bulge"), ("abscess", "haze"), ("abscess", "ring_lesion")],
            [],
            [("tumour", "haze")],
        ],
    )
    result = audit(detector, rows)
    signs = result.signs.set_index(["category", "sign"])
    assert (signs.loc["tumour"].findings == 3).all()
    assert signs.loc[("tumour", "haze"), "carries"] == pytest.approx(2 / 3)
    assert signs.loc[("tumour", "haze"), "leads"] == pytest.approx(2 / 3)
    assert signs.loc[("tumour", "bulge"), "carries"] == pytest.approx(2 / 3)
    assert signs.loc[("tumour", "bulge"), "leads"] == pytest.approx(1 / 3)
    assert signs.loc[("tumour", "spiculated_mass"), "carries"] == 0
    assert signs.loc[("abscess", "ring_lesion"), ["carries", "leads"]].tolist() == [1, 0]
    categories = result.categories.set_index("category")
    # The third finding of tumour names haze alone, which abscess and infarct list too.
    assert categories.loc["tumour", "by_shared_only"] == pytest.approx(1 / 3)
    assert categories.loc["tumour", ["signs", "own"]].tolist() == [4, 2]
    assert categories.loc["abscess", ["own", "by_shared_only"]].tolist() == [0, 1]
    assert np.isnan(categories.loc["infarct", "by_shared_only"])


def test_findings_and_signs_of_real_scores_are_counted(detector, scored) -> None:
    scores, rows, _ = scored
    result = audit(detector, rows)
    for row in result.signs.itertuples():
        of = [k for k, found in enumerate(scores.findings) if row.category in found]
        evidence = [{(e.category, e.sign) for e in scores.signs[k]} for k in of]
        named = [(row.category, row.sign) in pairs for pairs in evidence]
        assert row.findings == len(of)
        assert row.carries == pytest.approx(np.mean(named))


def test_support_auc_of_each_seed_uses_its_own_support(detector, supports) -> None:
    auc = auc_on_support(detector, supports)
    catalog = detector.catalog
    assert auc.shape == (3, len(catalog.categories), len(catalog.signs))
    seed = detector.score_pixels(supports[1].pixels)
    with torch.inference_mode():
        model = detector.model
        activations, _ = model.image_activations(detector.backbone.pixels(supports[1].pixels))
        z = model.image_embeddings(activations) @ detector.sign_embeddings.transpose(1, 2)
    assert seed.similarities.shape == z[1].shape
    for c in (0, 3):
        for s in (2, 7):
            expected = roc_auc_score(supports[1].labels[:, c], z[1, :, s])
            assert auc[1, c, s] == pytest.approx(expected, abs=0.01)
    with pytest.raises(ValueError, match="the supports have the seeds"):
        auc_on_support(detector, supports[::-1])


def test_contradicted_is_the_share_of_seeds_with_support_auc_at_most_one_half(detector) -> None:
    catalog = detector.catalog
    auc = np.full((3, len(catalog.categories), len(catalog.signs)), 0.9)
    c, s = catalog.category_names.index("fibrosis"), catalog.sign_names.index("notch")
    auc[:, c, s] = 0.5, 0.51, 0.2
    result = audit(detector, score_table([[]], [[]]), support_auc=auc)
    signs = result.signs.set_index(["category", "sign"]).contradicted
    assert signs["fibrosis", "notch"] == pytest.approx(2 / 3)
    assert signs.drop(("fibrosis", "notch")).eq(0).all()


def test_labels_change_only_the_test_columns(detector, scored) -> None:
    scores, rows, truth = scored
    without, given = audit(detector, rows), audit(detector, rows, truth, scores.similarities)
    for name, frame in given.to_frames().items():
        chosen = [column for column in frame if not column.startswith("test_")]
        assert frame[chosen].equals(without.to_frames()[name][chosen]), name
    kinds = [r.kind for r in remarks(given)]
    assert kinds == [r.kind for r in remarks(without)], "labels add no remark"
    c, s = CATEGORIES.index("fibrosis"), detector.catalog.sign_names.index("streaks")
    abnormal = truth.any(axis=1)
    expected = roc_auc_score(truth[abnormal, c], scores.similarities[abnormal, s])
    auroc = given.signs.set_index(["category", "sign"]).test_auroc
    assert auroc["fibrosis", "streaks"] == pytest.approx(expected)


def test_unread_images_are_left_out_of_the_test_auroc(detector, scored) -> None:
    scores, rows, truth = scored
    known = np.arange(120) < 80
    similarities = np.where(known[:, None], scores.similarities, np.nan)
    result = audit(detector, rows, truth, similarities)
    c, s = CATEGORIES.index("fibrosis"), detector.catalog.sign_names.index("streaks")
    chosen = truth.any(axis=1) & known
    expected = roc_auc_score(truth[chosen, c], scores.similarities[chosen, s])
    auroc = result.signs.set_index(["category", "sign"]).test_auroc
    assert auroc["fibrosis", "streaks"] == pytest.approx(expected)


def test_confusion_counts_images_where_only_the_other_category_is_found(detector) -> None:
    tumour, abscess = CATEGORIES.index("tumour"), CATEGORIES.index("abscess")
    truth = np.zeros((12, len(CATEGORIES)), bool)
    truth[:10, tumour] = True
    truth[8:, abscess] = True  # Two images have both, two have the abscess alone: too few.
    findings = (
        [["abscess"]] * 2 + [["tumour", "abscess"]] * 3 + [["tumour"]] * 3 + [["abscess"]] * 4
    )
    signs = [[(c, "haze") for c in row] for row in findings]
    pairs = audit(detector, score_table(findings, signs), truth).pairs
    row = pairs.set_index(["category", "other"]).loc[("tumour", "abscess")]
    assert row.test_confused == pytest.approx(2 / 8)
    assert np.isnan(row.test_confused_back)


def pairs_of(catalog, weights: np.ndarray, signs: np.ndarray) -> dict:
    found = pd.DataFrame(NO_FINDINGS, columns=["image", "category"])
    table = of_pairs(catalog, weights, torch.from_numpy(signs).float(), found, None)
    return table.set_index(["category", "other"]).to_dict("index")


def test_pairs_are_flagged_when_nested_or_close_in_weight_or_meaning() -> None:
    listed = {"a": ["p", "q"], "b": ["p"], "c": ["p", "r"], "d": ["s"], "e": ["t"]}
    names = ["p", "q", "r", "s", "t", "n"]
    content = {
        "name": "pairs",
        "modality": "none",
        "signs": {s: {"prompts": [s]} for s in names},
        "categories": {c: {"signs": s} for c, s in listed.items()},
        "normal": {"signs": ["n"]},
    }
    catalog = parse_catalog(content, "pairs")
    members = catalog.membership.astype(np.float32)
    even = (members / members.sum(1, keepdims=True))[None]
    signs = np.eye(6, dtype=np.float32)[None]
    found = pairs_of(catalog, even, signs)
    assert not found["a", "b"]["apart"], "b has no sign that a lacks"
    assert found["a", "c"]["jaccard"] == pytest.approx(1 / 3)
    assert found["a", "c"]["overlap"] == pytest.approx(0.5)
    assert not found["a", "c"]["apart"], "half of either weight is on p"
    assert found["a", "c"]["shared"] == "p"
    assert found["d", "e"]["apart"]
    assert found["a", "d"]["apart"]
    own = even.copy()
    own[0, 0, :2], own[0, 2, [0, 2]] = (0.1, 0.9), (0.1, 0.9)
    weighed = pairs_of(catalog, own, signs)
    assert weighed["a", "c"]["apart"], "each puts most weight on its own sign"
    assert not weighed["a", "b"]["apart"], "b still has no sign that a lacks"
    alike = signs.copy()
    alike[0, 4] = 0.9 * alike[0, 3] + 0.1 * alike[0, 4]
    assert not pairs_of(catalog, even, alike)["d", "e"]["apart"], "different words, same meaning"
    # A component shared by all signs does not make two categories alike.
    common = signs + 5
    assert pairs_of(catalog, even, common)["d", "e"]["apart"]


def test_names_of_categories_are_no_signs_of_their_own() -> None:
    catalog = load_catalog("phantoms").with_names()
    named = [(0, "abscess", "name_abscess", True), (1, "abscess", "haze", True)]
    table = of_categories(
        catalog,
        pd.DataFrame([(0, "abscess"), (1, "abscess")], columns=["image", "category"]),
        pd.DataFrame(named, columns=["image", "category", "sign", "first"]),
    ).set_index("category")
    assert table.loc["abscess", ["own", "by_shared_only"]].tolist() == [0, 1]
    assert table.loc["tumour", "own"] == 2


def test_pairs_are_nested_whatever_names_training_adds() -> None:
    content = {
        "name": "pairs",
        "modality": "none",
        "signs": {s: {"prompts": [s]} for s in ("p", "q", "n")},
        "categories": {"a": {"signs": ["p", "q"]}, "b": {"signs": ["p"]}},
        "normal": {"signs": ["n"]},
    }
    catalog = parse_catalog(content, "pairs").with_names()
    weights = np.zeros((1, *catalog.membership.shape), np.float32)
    for c, sign in enumerate(("q", "name_b")):
        weights[0, c, catalog.sign_names.index(sign)] = 1
    found = pairs_of(catalog, weights, np.eye(len(catalog.signs))[None])
    assert not found["a", "b"]["apart"], "b has no sign that a lacks"


def test_score_tables_of_another_catalog_are_refused(detector) -> None:
    for rows in (
        score_table([["rash"]], [[]]),
        score_table([["tumour"]], [[("tumour", "rash")]]),
    ):
        with pytest.raises(UserError, match="'rash', which is not in the detector's sign catalog"):
            audit(detector, rows)
    with pytest.raises(ValueError, match="the score table needs"):
        audit(detector, score_table([[]], [[]]), truth=np.zeros((2, 6), bool))


def test_written_tables_are_read_back_unchanged(detector, scored, tmp_path) -> None:
    scores, rows, truth = scored
    result = audit(detector, rows, truth, scores.similarities)
    write_audit(result, str(tmp_path))
    for name, frame in result.to_frames().items():
        read = pq.read_table(tmp_path / f"audit_{name}.parquet").to_pandas()
        assert read.equals(frame), name
