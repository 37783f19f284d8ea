"""The remarks of the sign audit."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sdmad import Detector
from sdmad.evaluation.audit import audit
from sdmad.evaluation.remarks import LEAST_FINDINGS, remarks
from sdmad.fitting.sight import NEAR_CHANCE, in_words
from sdmad.phantoms.task import CATEGORIES
from tests.evaluation.test_audit import score_table


@pytest.fixture(scope="module")
def detector(training_run) -> Detector:
    return Detector.load(str(training_run))


def test_remarks_name_the_most_frequent_signs_and_suggest_changes(detector) -> None:
    count = 2 * LEAST_FINDINGS
    findings = [["tumour"]] * count + [["infarct"]] * count
    signs = [[("tumour", "haze"), ("tumour", "bulge")]] * (count // 20)
    signs += [[("tumour", "haze")]] * (count - count // 20) + [[("infarct", "haze")]] * count
    catalog = detector.catalog
    auc = np.full((3, len(catalog.categories), len(catalog.signs)), 0.9)
    auc[:2, CATEGORIES.index("tumour"), catalog.sign_names.index("bulge")] = 0.4
    auc[:, CATEGORIES.index("tumour"), catalog.sign_names.index("bright_nodule")] = 0.4
    made = remarks(audit(detector, score_table(findings, signs), support_auc=auc))
    texts = {(r.kind, r.text) for r in made}
    expected = [
        (
            "carries",
            f"“haze” is named in 100 % of the {count} findings of tumour, “bulge” in 5 %.",
        ),
        (
            "silent",
            "Too few findings of calcinosis to judge its signs: 0, and at least 20 are needed.",
        ),
        (
            "never",
            "“spiculated mass” is listed for tumour, but named in none of its 40 findings. "
            "Consider removing or rewording it.",
        ),
        (
            "never",
            "“bright nodule” is listed for tumour, but named in none of its 40 findings. It fails "
            "on the support in 3 of 3 seeds: it is no more similar to images with tumour than to "
            "the others. Consider removing or rewording it.",
        ),
        (
            "contradicted",
            "“bulge” fails on the support of tumour in 2 of 3 seeds: it is no more similar to "
            "images with tumour than to the others. It is still named in 5 % of the findings. "
            "Either these images do not show it, or the backbone does not recognise it. Look at "
            "the images, then remove or reword the sign.",
        ),
        (
            "shared",
            "Every sign of abscess is also listed for another category. Add a sign that only "
            "abscess shows.",
        ),
        (
            "shared",
            "95 % of the findings of tumour name no sign that is listed for tumour alone. Add a "
            "sign that only tumour shows.",
        ),
        (
            "shared",
            "“haze” is the first sign in at least half of the findings of tumour and infarct, so "
            "it does not separate these categories. Split it into the forms that each category "
            "shows, or describe it more narrowly.",
        ),
    ]
    for remark in expected:
        assert remark in texts
    assert not any(k == "never" and "abscess" in t for k, t in texts), "no findings"
    assert {r.kind for r in made if not r.is_advice} == {"carries", "silent"}


def test_names_that_training_adds_get_no_advice(detector) -> None:
    findings = [["tumour"]] * LEAST_FINDINGS
    known = audit(detector, score_table(findings, [[("tumour", "haze")]] * LEAST_FINDINGS))
    never = known.signs[known.signs.sign == "bulge"]
    added = never.assign(sign="name_tumour", contradicted=1.0)
    made = remarks(replace(known, signs=pd.concat([known.signs, added], ignore_index=True)))
    assert any("“bulge”" in remark.text for remark in made if remark.is_advice)
    assert not any("name tumour" in remark.text for remark in made)


def test_near_chance_there_is_no_advice(detector) -> None:
    findings = [["tumour"]] * LEAST_FINDINGS
    signs = [[("tumour", "haze")]] * LEAST_FINDINGS
    known = audit(detector, score_table(findings, signs))
    assert known.backbone_auroc > NEAR_CHANCE
    assert any(remark.is_advice for remark in remarks(known))
    blind = replace(known, backbone_auroc=0.52)
    made = remarks(blind)
    assert made
    assert not any(remark.is_advice for remark in made)
    assert "hardly sees the signs" in in_words(0.52)
    assert "hardly sees" not in in_words(0.6)


def test_categories_with_overlapping_signs_are_named(detector, monkeypatch) -> None:
    weights = torch.zeros_like(detector.rule.weights)
    haze = detector.catalog.sign_names.index("haze")
    weights[:] = detector.rule.weights * 0.2
    for name in ("abscess", "infarct"):
        weights[:, CATEGORIES.index(name), haze] += 0.8
    rule = type(detector.rule)(**(vars(detector.rule) | {"weights": weights}))
    monkeypatch.setattr(detector, "rule", rule)
    result = audit(detector, score_table([[]], [[]]))
    alike = [r.text for r in remarks(result) if r.kind == "alike"]
    assert len(alike) == 1
    assert alike[0].startswith("The signs of abscess and infarct overlap: 8")
    assert alike[0].endswith(
        "% of their weight is on “haze”. Add a sign that only one of them shows."
    )
