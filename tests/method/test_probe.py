import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sdmad.method.probe import ProbeConfig, fit_probe, probe_evidence


def made(shots: int, seed: int, shown: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (N, 40), with feature c larger in images of category c, and labels (N, 2)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([[1, 0], [0, 1], [0, 0]], shots, axis=0)
    patches = rng.normal(5, 1, (len(labels), 40))
    patches[:, :2] += shown * labels
    return torch.from_numpy(patches).float(), torch.from_numpy(labels).float()


def test_the_probe_separates_images_outside_the_support() -> None:
    planes = fit_probe(*made(16, 0), 16, ProbeConfig())
    patches, labels = made(200, 1)
    evidence = probe_evidence(patches, planes[None])[0]
    for c in range(2):
        assert roc_auc_score(labels[:, c], evidence[:, c]) > 0.8


def test_planes_separate_the_support_by_their_weight_at_any_scale_of_the_features() -> None:
    patches, labels = made(4, 0)
    config = ProbeConfig(weight_per_shot=1.5, ridge=1e-6)
    for factor in (1e-3, 1.0, 1e3):
        scaled = factor * patches
        evidence = probe_evidence(scaled, fit_probe(scaled, labels, 4, config)[None])[0]
        assert torch.allclose(evidence, 6 * (2 * labels - 1), atol=0.1)


def test_images_with_and_without_a_category_have_the_same_total_weight() -> None:
    """Three copies of every image without the category change nothing."""
    patches, labels = made(4, 0)
    kept = torch.cat([torch.arange(4), torch.arange(4, 12).repeat(3)])
    # A small penalty, because the scale of the features depends on the rows.
    config = ProbeConfig(ridge=1e-8)
    once = fit_probe(patches, labels[:, :1], 4, config)
    again = fit_probe(patches[kept], labels[kept, :1], 4, config)
    assert torch.allclose(once, again, atol=1e-3)


def test_planes_are_zero_without_weight_or_without_images_of_the_category() -> None:
    patches, labels = made(2, 0)
    assert not fit_probe(patches, labels, 2, ProbeConfig(weight_per_shot=0)).any()
    labels[:, 1] = 0
    planes = fit_probe(patches, labels, 2, ProbeConfig())
    assert planes[0].any()
    assert not planes[1].any()


@pytest.mark.parametrize("shape", [(7, 40), (3, 7, 40)])
def test_every_seed_has_its_own_planes(shape) -> None:
    patches = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    planes = torch.randn(3, 2, 41, generator=torch.Generator().manual_seed(1))
    found = probe_evidence(patches, planes)
    for s in range(3):
        own = patches if patches.dim() == 2 else patches[s]
        assert torch.allclose(found[s], own @ planes[s, :, :-1].T + planes[s, :, -1], atol=1e-5)
