import numpy as np
import torch

from sdmad.comparison import cell
from sdmad.comparison.cell import Bench, TestImages
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
    bench = Bench(backbone, catalog, QUICK, None, TestImages(pixels, truth))
    ungated = Variant(learner={"gate": 0.0})
    fewer = Variant(learner={"augment": {"views": 1}})
    found = [bench.score("x", variant, supports[0])[0] for variant in (None, ungated, fewer)]
    assert encoded == [QUICK.augment, AugmentConfig(views=1)]
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
