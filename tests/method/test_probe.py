import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from sdmad.method.probe import ProbeConfig, fit_probe, probe_evidence, with_any
from sdmad.method.standard import fit_standard


def made(shots: int, seed: int, shown: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (N, 40), with feature c larger in images of category c, and labels (N, 2)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([[1, 0], [0, 1], [0, 0]], shots, axis=0)
    patches = rng.normal(5, 1, (len(labels), 40))
    patches[:, :2] += shown * labels
    return torch.from_numpy(patches).float(), torch.from_numpy(labels).float()


def by_scikit_learn(patches, labels, shots, head, rows) -> Ridge:
    """The head fitted to some rows, with features in the standard of all."""
    shown = with_any(labels)[rows, head].numpy() > 0
    weights = np.where(shown, 0.5 / shown.sum(), 0.5 / (~shown).sum())
    model = Ridge(alpha=ProbeConfig().ridge / shots**0.5, solver="svd")
    return model.fit(scaled(patches)[rows], np.where(shown, 1.0, -1.0), sample_weight=weights)


def scaled(patches: torch.Tensor) -> np.ndarray:
    values = patches.double()
    return (fit_standard(values).apply(values) / values.shape[1] ** 0.5).numpy()


@pytest.mark.parametrize("head", [0, 1, 2])
def test_heads_are_scikit_learns_ridge_on_both_sides_with_the_same_weight(head) -> None:
    patches, labels = made(4, 0)
    labels[0, 1] = 1  # Two categories in one image.
    probe = fit_probe(patches, labels, 4, ProbeConfig())
    theirs = by_scikit_learn(patches, labels, 4, head, np.arange(12)).predict(scaled(patches))
    ours = probe_evidence(patches, probe.planes[None])[0, :, head]
    assert np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("head", [0, 2])
def test_outputs_for_left_out_images_are_those_of_fits_without_them(head) -> None:
    patches, labels = made(4, 0)
    found = fit_probe(patches, labels, 4, ProbeConfig()).held_out[:, head]
    for image in range(12):
        rows = np.delete(np.arange(12), image)
        model = by_scikit_learn(patches, labels, 4, head, rows)
        expected = model.predict(scaled(patches)[[image]])[0]
        assert found[image] == pytest.approx(expected, abs=1e-5)


def test_the_probe_separates_images_outside_the_support() -> None:
    planes = fit_probe(*made(16, 0), 16, ProbeConfig()).planes
    patches, labels = made(200, 1)
    evidence = probe_evidence(patches, planes[None])[0]
    for head, least in enumerate((0.8, 0.8, 0.6)):
        assert roc_auc_score(with_any(labels)[:, head], evidence[:, head]) > least


def test_units_of_the_features_do_not_matter() -> None:
    patches, labels = made(4, 0)
    once = fit_probe(patches, labels, 4, ProbeConfig())
    for factor in (1e-3, 1e3):
        again = fit_probe(factor * patches, labels, 4, ProbeConfig())
        for ours, theirs in (
            (probe_evidence(factor * patches, again.planes[None]), once.planes),
            (again.held_out, None),
        ):
            expected = once.held_out if theirs is None else probe_evidence(patches, theirs[None])
            assert torch.allclose(ours, expected, atol=1e-3)


def test_a_single_image_of_its_kind_cannot_be_left_out() -> None:
    held_out = fit_probe(*made(1, 0), 1, ProbeConfig()).held_out
    assert torch.isnan(held_out[0, 0])
    assert torch.isnan(held_out[2, 2]), "the only normal image"
    assert torch.isfinite(held_out[1, 0])


def test_planes_are_zero_without_images_of_a_category() -> None:
    patches, labels = made(2, 0)
    labels[:, 1] = 0
    probe = fit_probe(patches, labels, 2, ProbeConfig())
    assert probe.planes[0].any()
    assert not probe.planes[1].any()
    assert torch.isnan(probe.held_out[:, 1]).all()


@pytest.mark.parametrize("shape", [(7, 40), (3, 7, 40)])
def test_every_seed_has_its_own_planes(shape) -> None:
    patches = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    planes = torch.randn(3, 2, 41, generator=torch.Generator().manual_seed(1))
    found = probe_evidence(patches, planes)
    for s in range(3):
        own = patches if patches.dim() == 2 else patches[s]
        assert torch.allclose(found[s], own @ planes[s, :, :-1].T + planes[s, :, -1], atol=1e-5)
