from dataclasses import replace

import torch

from sdmad.method.model import Readings
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
