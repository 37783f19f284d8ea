from dataclasses import replace

import numpy as np
import pytest
import torch

from sdmad.backbones.loading import Backbone
from sdmad.baselines import READ_BLOCKS, BaselineConfig
from sdmad.comparison import cell
from sdmad.comparison.cell import Bench, TestImages, in_order
from sdmad.comparison.config import Variant
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import fit_batch
from tests.conftest import QUICK


def test_variants_share_the_encoded_views_and_score_as_if_alone(
    supports, backbone, catalog, monkeypatch
) -> None:
    encoded = []
    encode = cell.encode

    def counted(*arguments):
        encoded.append(arguments[2])
        return encode(*arguments)

    monkeypatch.setattr(cell, "encode", counted)
    pixels = supports[1].pixels[:8]
    truth = np.zeros((len(pixels), len(catalog.categories)), bool)
    bench = Bench(backbone, catalog, QUICK, BaselineConfig(), TestImages(pixels, truth))
    ungated = Variant(learner={"gate": 0.0})
    fewer = Variant(learner={"augment": {"views": 1}})
    found = [bench.score("x", variant, supports[0])[0] for variant in (None, ungated, fewer)]
    assert encoded == [QUICK.augment, AugmentConfig(views=1, flip=False)]
    bench.score("x", None, supports[2])
    assert len(encoded) == 3, "another support"

    for scores, variant in zip(found, (Variant(), ungated, fewer), strict=True):
        learner = variant.changed(QUICK)
        model, rule = fit_batch(backbone, learner.chosen_signs(catalog), supports[:1], learner)
        with torch.no_grad():
            activations, frozen = model.image_activations(backbone.pixels(pixels))
            readings = model.read(activations, frozen, model.sign_embeddings())
            expected = torch.sigmoid(rule.evidence(model, readings, learner).logits[0])
        assert np.allclose(scores, expected.numpy(), atol=1e-5)


def test_baselines_take_what_sd_mad_encoded(supports, backbone, catalog, monkeypatch) -> None:
    pixels = supports[1].pixels[:8]
    test = TestImages(pixels, np.zeros((len(pixels), len(catalog.categories)), bool))
    budget = BaselineConfig(steps=5, augment=QUICK.augment)
    shuffled = np.random.default_rng(0).permutation(len(supports[0].keys))
    support = replace(
        supports[0],
        keys=[supports[0].keys[row] for row in shuffled],
        pixels=supports[0].pixels[shuffled],
        labels=supports[0].labels[shuffled],
    )

    def scores(*methods: str) -> np.ndarray:
        bench = Bench(backbone, catalog, QUICK, budget, test)
        return [bench.score(method, None, support)[0] for method in methods][-1]

    alone = scores("linear_probe")
    images: list[int] = []
    embed = Backbone.embed_images
    monkeypatch.setattr(
        Backbone, "embed_images", lambda self, part: images.append(len(part)) or embed(self, part)
    )
    assert np.allclose(scores("sd_mad", "linear_probe"), alone, atol=1e-4)
    assert not images
    scores("linear_probe")
    assert sum(images) == len(pixels) + len(support.keys) * budget.augment.views


@pytest.mark.parametrize("first", READ_BLOCKS)
def test_pixels_are_encoded_once_for_all_methods(
    first, supports, backbone, catalog, monkeypatch
) -> None:
    methods = in_order(["sd_mad", "gda", first, *READ_BLOCKS])
    pixels = supports[1].pixels[:4]
    test = TestImages(pixels, np.zeros((len(pixels), len(catalog.categories)), bool))
    learner = QUICK.model_copy(update={"steps": 2, "augment": AugmentConfig(views=2)})
    budget = BaselineConfig(steps=0, augment=learner.augment)
    reversed_ = [
        replace(s, keys=s.keys[::-1], pixels=s.pixels[::-1].copy(), labels=s.labels[::-1].copy())
        for s in supports[:2]
    ]
    alone = Bench(backbone, catalog, learner, budget, test)
    expected = [alone.score("sd_mad", None, support).scores for support in reversed_]
    encoded: list[int] = []
    read = Backbone.pixels
    monkeypatch.setattr(
        Backbone, "pixels", lambda self, part: encoded.append(len(part)) or read(self, part)
    )
    bench = Bench(backbone, catalog, learner, budget, test)
    for support, scores in zip(reversed_, expected, strict=True):
        found = {m: bench.score(m, None, support) for m in methods}
        assert np.allclose(found["sd_mad"].scores, scores, atol=1e-4)
    views = sum(len(support.keys) for support in supports[:2]) * learner.augment.views
    assert sum(encoded) == len(pixels) + views
