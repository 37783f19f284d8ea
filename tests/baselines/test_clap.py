import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdmad.baselines import BaselineConfig, SupportViews, clap, fit
from sdmad.baselines.clap import constraint, constraint_weights
from sdmad.baselines.texts import ClassTexts, text_evidence
from sdmad.method.augment import AugmentConfig


def test_the_penalty_is_zero_at_the_text_features_and_weighs_squared_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(3, 5, generator=generator), dim=-1)
    weights = torch.tensor([0.2, 0.5, 0.9])
    assert constraint(features.clone(), features, weights) == 0
    moved = features + torch.tensor([[0.1], [0.0], [0.2]])
    expected = (0.2 * 5 * 0.1**2 + 0.9 * 5 * 0.2**2) / 3
    assert float(constraint(moved, features, weights)) == pytest.approx(expected, rel=1e-5)


def test_weights_are_mean_zero_shot_probabilities_of_the_own_class() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]])
    classes = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]])
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = [p[0, 0], (p[1, 1] + p[2, 1]) / 2, 0]
    assert np.allclose(constraint_weights(logits, classes).numpy(), expected, atol=1e-6)


def test_categories_of_one_image_do_not_compete_for_its_probability() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    both = constraint_weights(logits, torch.tensor([[0.0, 1, 1, 0]]))
    one = np.exp(2) / (np.exp(2) + np.exp(0) + np.exp(1))
    assert np.allclose(both.numpy(), [0, one, one, 0], atol=1e-6)


def test_without_steps_it_is_zero_shot_clip(supports, backbone, catalog) -> None:
    config = BaselineConfig(steps=0, augment=AugmentConfig(views=1))
    views = SupportViews.of(backbone, supports[0], config.augment)
    scorer = fit("clap", backbone, catalog, views, config)
    features = ClassTexts.signs(catalog).frozen_features(backbone)
    expected = text_evidence(views.views.embeddings, features, backbone.logit_scale)
    assert torch.allclose(scorer.evidence(views.views), expected, atol=1e-5)


def test_a_heavier_penalty_moves_evidence_less(supports, backbone, catalog, monkeypatch) -> None:
    config = BaselineConfig(steps=10, augment=AugmentConfig(views=1))
    views = SupportViews.of(backbone, supports[0], config.augment)
    features = ClassTexts.signs(catalog).frozen_features(backbone)
    start = text_evidence(views.views.embeddings, features, backbone.logit_scale)
    weights = constraint_weights
    moved = []
    for factor in (1, 1000):
        monkeypatch.setattr(clap, "constraint_weights", lambda *a, f=factor: f * weights(*a))
        scorer = fit("clap", backbone, catalog, views, config)
        moved.append(float((scorer.evidence(views.views) - start).detach().norm()))
    assert moved[1] < moved[0]
