from dataclasses import replace

import torch

from sdmad.method.learner import LearnerConfig
from sdmad.method.model import Readings, contrasts
from sdmad.method.selection import SelectionConfig


def test_any_anomaly_is_asked_of_all_signs_alike_and_categories_are_not(fitted) -> None:
    model, rule = fitted
    generator = torch.Generator().manual_seed(0)
    signs = model.membership.shape[1]
    readings = Readings(
        similarities=torch.randn(3, 5, signs, generator=generator),
        frozen_similarities=torch.randn(5, signs, generator=generator),
        patches=torch.zeros(5, 1),
    )
    # Each category rests on its first sign alone.
    first = model.membership & (model.membership.cumsum(-1) == 1)
    chosen = replace(rule, weights=first.float().expand(3, -1, -1))
    alike = SelectionConfig(mode="none")
    some, _ = chosen.voices(model, readings, SelectionConfig())
    every, _ = chosen.voices(model, readings, alike)
    for one, other in zip(some, every, strict=True):
        assert torch.equal(one[..., -1], other[..., -1])
        assert not torch.isclose(one[..., :-1], other[..., :-1]).all(-1).any()
    z = rule.standard.apply(readings.frozen_similarities)
    categories = torch.stack([z[..., own].exp().mean(-1).log() for own in model.membership], -1)
    normal = z[..., model.normal].exp().mean(-1).log()
    assert torch.allclose(every[0][..., -1], categories.amax(-1) - normal, atol=1e-5)


def test_one_category_against_normal_is_any_anomaly() -> None:
    category, every, normal = torch.tensor([[2.0], [1.0]]), torch.zeros(2, 1), torch.ones(2)
    assert contrasts(category, every, normal).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_the_signs_of_a_finding_are_those_of_the_model_that_carries_it(fitted) -> None:
    model, rule = fitted
    generator = torch.Generator().manual_seed(0)
    signs = model.membership.shape[1]
    frozen, adapted = torch.randn(2, 3, 5, signs, generator=generator)
    read = Readings(adapted, frozen, torch.zeros(3, 5, rule.probe.shape[-1] - 1))

    def shares(weights: tuple[float, float]) -> torch.Tensor:
        parts = torch.tensor([1.0, *weights]).expand(3, len(model.names) + 1, 3)
        return replace(rule, parts=parts).evidence(model, read, LearnerConfig()).shares()

    def alone(similarities: torch.Tensor) -> torch.Tensor:
        terms = rule.weights[:, None] * rule.standard.apply(similarities)[..., None, :].exp()
        return terms / terms.sum(-1, keepdim=True)

    assert torch.allclose(shares((0.8, 0.0)), alone(frozen), atol=1e-5)
    assert torch.allclose(shares((0.0, 0.4)), alone(adapted), atol=1e-5)
    both = 0.75 * alone(frozen) + 0.25 * alone(adapted)
    assert torch.allclose(shares((0.6, 0.2)), both, atol=1e-5)
