import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sdmad.method.probe import ProbeConfig, fit_probe, probe_evidence


def made(shots: int, seed: int, shown: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (N, 40) whose first two features show two categories, and labels (N, 2)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([[1, 0], [0, 1], [0, 0]], shots, axis=0)
    patches = rng.normal(5, 1, (len(labels), 40))
    patches[:, :2] += shown * labels
    return torch.from_numpy(patches).float(), torch.from_numpy(labels).float()


def test_it_finds_new_images_of_what_the_support_shows() -> None:
    planes = fit_probe(*made(16, 0), 16, ProbeConfig())
    patches, labels = made(200, 1)
    evidence = probe_evidence(patches, planes[None])[0]
    for c in range(2):
        assert roc_auc_score(labels[:, c], evidence[:, c]) > 0.8


def test_planes_separate_the_support_by_their_weight_whatever_the_features_are() -> None:
    patches, labels = made(4, 0)
    config = ProbeConfig(weight_per_shot=1.5, ridge=1e-6)
    for factor in (1e-3, 1.0, 1e3):
        scaled = factor * patches
        evidence = probe_evidence(scaled, fit_probe(scaled, labels, 4, config)[None])[0]
        assert torch.allclose(evidence, 6 * (2 * labels - 1), atol=0.1)


def test_images_with_and_without_a_category_weigh_the_same() -> None:
    """Three copies of every image without the category change nothing."""
    patches, labels = made(4, 0)
    kept = torch.cat([torch.arange(4), torch.arange(4, 12).repeat(3)])
    # The unit of the features follows the rows; the penalty would follow it.
    config = ProbeConfig(ridge=1e-8)
    once = fit_probe(patches, labels[:, :1], 4, config)
    again = fit_probe(patches[kept], labels[kept, :1], 4, config)
    assert torch.allclose(once, again, atol=1e-3)


def test_no_weight_is_no_probe_and_a_category_nobody_shows_has_none() -> None:
    patches, labels = made(2, 0)
    assert not fit_probe(patches, labels, 2, ProbeConfig(weight_per_shot=0)).any()
    labels[:, 1] = 0
    planes = fit_probe(patches, labels, 2, ProbeConfig())
    assert planes[0].any()
    assert not planes[1].any()


@pytest.mark.parametrize("shape", [(7, 40), (3, 7, 40)])
def test_every_seed_has_planes_of_its_own(shape) -> None:
    patches = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    planes = torch.randn(3, 2, 41, generator=torch.Generator().manual_seed(1))
    found = probe_evidence(patches, planes)
    for s in range(3):
        own = patches if patches.dim() == 2 else patches[s]
        assert torch.allclose(found[s], own @ planes[s, :, :-1].T + planes[s, :, -1], atol=1e-5)
