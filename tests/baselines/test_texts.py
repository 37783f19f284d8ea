import torch
import torch.nn.functional as F

from sdmad.baselines.texts import ClassTexts, text_evidence
from sdmad.inputs.catalog import parse_catalog
from sdmad.method.adapter import AdapterConfig
from sdmad.method.model import SignModel


def test_class_features_are_unit_means_over_signs(backbone, catalog) -> None:
    features = ClassTexts.signs(catalog).frozen_features(backbone)
    signs = SignModel(backbone, catalog, AdapterConfig(), 1).frozen_signs
    normal = F.normalize(signs[torch.from_numpy(catalog.normal_membership)].mean(0), dim=0)
    second = F.normalize(signs[torch.from_numpy(catalog.membership[1])].mean(0), dim=0)
    assert features.shape == (1 + len(catalog.categories), signs.shape[1])
    assert torch.allclose(features[0], normal, atol=1e-5)
    assert torch.allclose(features[2], second, atol=1e-5)


def test_names_are_put_into_every_template_normal_first() -> None:
    content = {
        "name": "eyes",
        "modality": "photograph",
        "templates": ["an eye with {}", "{} of the eye"],
        "signs": {"spots": {"prompts": ["spots"]}, "clear": {"prompts": ["a clear lens"]}},
        "categories": {"dry_eye": {"signs": ["spots"]}},
        "normal": {"signs": ["clear"]},
    }
    texts = ClassTexts.names(parse_catalog(content, "here"))
    assert texts.texts == [
        "an eye with no abnormality",
        "no abnormality of the eye",
        "an eye with dry eye",
        "dry eye of the eye",
    ]
    assert texts.owner.tolist() == [0, 0, 1, 1]


def test_evidence_is_the_logit_of_a_softmax_over_normal_and_the_category() -> None:
    generator = torch.Generator().manual_seed(0)
    v = F.normalize(torch.randn(4, 8, generator=generator), dim=-1)
    t = F.normalize(torch.randn(3, 8, generator=generator), dim=-1)
    evidence = text_evidence(v, t, 20.0)
    for c in (1, 2):
        both = torch.softmax(20 * v @ t[[0, c]].T, dim=-1)[:, 1]
        assert torch.allclose(torch.sigmoid(evidence[:, c - 1]), both, atol=1e-5)


def test_a_training_step_reads_one_text_of_each_sign_and_a_score_all(catalog) -> None:
    texts = ClassTexts.signs(catalog)
    generator = torch.Generator().manual_seed(0)
    draws = [texts.rows_of_step(generator) for _ in range(50)]
    signs = torch.arange(len(catalog.signs))
    assert all(torch.equal(texts.owner[rows], signs) for rows in draws)
    assert set(torch.cat(draws).tolist()) == set(range(len(texts.texts)))
    with torch.no_grad():
        assert len(texts.rows_of_step(generator)) == len(texts.texts)


def test_some_texts_have_the_features_of_their_embeddings(backbone, catalog) -> None:
    texts = ClassTexts.signs(catalog)
    rows = texts.rows_of_step(torch.Generator().manual_seed(0))
    embeddings = backbone.embed_texts(texts.texts)[rows]
    signs = F.normalize(embeddings, dim=-1)
    expected = F.normalize(texts.membership.float() @ signs, dim=-1)
    some = texts.some(rows)
    assert some.texts == [texts.texts[row] for row in rows]
    assert torch.allclose(some.features(embeddings), expected, atol=1e-6)
