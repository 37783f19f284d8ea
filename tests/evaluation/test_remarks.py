"""What the sign audit says in words."""

import numpy as np
import pytest
import torch

from sdmad import Detector
from sdmad.evaluation.audit import audit
from sdmad.evaluation.remarks import LEAST_FINDINGS, remarks
from sdmad.phantoms.task import CATEGORIES
from tests.evaluation.test_audit import score_table


@pytest.fixture(scope="module")
def detector(training_run) -> Detector:
    return Detector.load(str(training_run))


def test_remarks_name_what_carries_and_what_to_change(detector) -> None:
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
        ("carries", f"“haze” carries 100 % of the {count} findings of tumour, “bulge” 5 %"),
        ("silent", "calcinosis has 0 findings: too few to tell which of its signs work"),
        (
            "never",
            "“spiculated mass” never carries a finding of tumour although the catalog lists it: "
            "consider removing or rewording it",
        ),
        (
            "never",
            "“bright nodule” never carries a finding of tumour although the catalog lists it, and "
            "the support contradicts it in 3 of 3 seeds: consider removing or rewording it",
        ),
        (
            "shared",
            "every sign of abscess is also listed for another category: add a sign that only "
            "abscess shows",
        ),
        (
            "shared",
            "95 % of the findings of tumour rest only on signs that other categories have too: "
            "add a sign that only tumour shows",
        ),
    ]
    for remark in expected:
        assert remark in texts
    assert any(k == "contradicted" and "“bulge” for tumour in 2 of 3" in t for k, t in texts)
    assert any("“haze” comes first in most findings of tumour and infarct" in t for _, t in texts)
    assert not any("never carries a finding of abscess" in t for _, t in texts), "no findings"
    assert {r.kind for r in made if not r.is_advice} == {"carries", "silent"}


def test_categories_that_cannot_be_told_apart_are_named(detector, monkeypatch) -> None:
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
    assert alike[0].startswith("abscess and infarct share “haze”, which carry 8")
    assert alike[0].endswith("add a sign that only one of them shows")
