import torch
import torch.nn.functional as F

from sdmad.baselines import texts as texts_module
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


def test_a_training_step_reads_one_text_of_few_signs_of_each_class_and_a_score_all(
    catalog, monkeypatch
) -> None:
    monkeypatch.setattr(texts_module, "SIGNS_OF_CLASS", 2)
    texts = ClassTexts.signs(catalog)
    generator = torch.Generator().manual_seed(0)
    draws = [texts.rows_of_step(generator) for _ in range(200)]
    for rows in draws:
        signs = texts.owner[rows]
        assert torch.equal(signs, signs.unique()), "one text of each sign, in their order"
        # A sign of several classes is in the draw of one of them at least, and counts for all.
        assert (texts.membership[:, signs].sum(1) >= 2).all()
        alone = texts.membership.sum(0) == 1
        assert ((texts.membership & alone)[:, signs].sum(1) <= 2).all()
    assert set(torch.cat(draws).tolist()) == set(range(len(texts.texts)))
    with torch.no_grad():
        assert len(texts.rows_of_step(generator)) == len(texts.texts)


def test_a_class_with_few_signs_has_all_of_them_in_every_step() -> None:
    membership = torch.tensor([[True, True, False, False], [False, True, True, True]])
    texts = ClassTexts(list("abcd"), torch.arange(4), membership)
    rows = texts.rows_of_step(torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 1, 2, 3]


def test_some_texts_have_the_features_of_their_embeddings(backbone, catalog, monkeypatch) -> None:
    monkeypatch.setattr(texts_module, "SIGNS_OF_CLASS", 1)
    texts = ClassTexts.signs(catalog)
    rows = texts.rows_of_step(torch.Generator().manual_seed(0))
    embeddings = backbone.embed_texts(texts.texts)[rows].requires_grad_()
    units = F.normalize(embeddings, dim=-1)
    drawn = texts.owner[rows].tolist()
    assert len(drawn) < len(catalog.signs)
    some = texts.some(rows)
    features = some.features(embeddings)
    assert some.texts == [texts.texts[row] for row in rows]
    for own, feature in zip(texts.membership, features, strict=True):
        of_class = [unit for unit, sign in zip(units, drawn, strict=True) if own[sign]]
        expected = F.normalize(torch.stack(of_class).mean(0), dim=0)
        assert torch.allclose(feature, expected, atol=1e-6)
    features.sum().backward()
    assert embeddings.grad is not None and torch.isfinite(embeddings.grad).all()


def test_several_texts_of_a_sign_are_averaged_before_signs() -> None:
    texts = ClassTexts(list("abcd"), torch.tensor([0, 2, 2, 3]), torch.eye(4, dtype=torch.bool)[2:])
    some = texts.some(torch.tensor([1, 2, 3]))
    embeddings = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    expected = torch.stack([F.normalize(embeddings[:2].sum(0), dim=0), embeddings[2]])
    assert torch.allclose(some.features(embeddings), expected, atol=1e-6)
