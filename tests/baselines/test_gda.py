import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sdmad.baselines import BaselineConfig, SupportViews, fit, gda
from sdmad.baselines.gda import ALPHAS, Moments
from sdmad.baselines.texts import ClassTexts, text_evidence
from sdmad.method.augment import AugmentConfig


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings (40, 12) and the number of their class, of three."""
    generator = np.random.default_rng(0)
    classes = np.arange(40) % 3
    v = generator.normal(size=(40, 12)) + 2 * np.eye(3, 12)[classes]
    return v / np.linalg.norm(v, axis=1, keepdims=True), classes


def moments(v: np.ndarray, classes: np.ndarray) -> Moments:
    return Moments.of(torch.from_numpy(v), torch.from_numpy(np.eye(3)[classes]))


class Fixed:
    """A covariance for scikit-learn that is known beforehand."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = covariance

    def fit(self, _: np.ndarray) -> "Fixed":
        return self


def test_planes_are_those_of_scikit_learns_discriminant_analysis(samples) -> None:
    v, classes = samples
    centred = v - np.stack([v[classes == c].mean(0) for c in range(3)])[classes]
    covariance = np.cov(centred.T)
    inverse = (len(v) - 1) * covariance + np.trace(covariance) * np.eye(12)
    lda = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=Fixed(inverse / 12), priors=[1 / 3] * 3
    ).fit(v, classes)
    theirs = lda.decision_function(v)
    planes = moments(v, classes).planes().numpy()
    ours = v @ planes[:, :-1].T + planes[:, -1]
    assert np.allclose(ours, theirs[:, 1:] - theirs[:, :1], rtol=1e-6, atol=1e-8)


def test_without_an_image_means_as_if_it_had_never_been_there(samples) -> None:
    v, classes = samples
    less = moments(v, classes).without(moments(v[4:8], classes[4:8]))
    expected = moments(np.delete(v, range(4, 8), 0), np.delete(classes, range(4, 8)))
    assert torch.allclose(less.planes(), expected.planes(), atol=1e-8)


def test_an_image_with_two_categories_counts_for_both() -> None:
    v = torch.eye(4, 6)
    classes = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]])
    means = Moments.of(v, classes).means
    expected = torch.stack([v[0], v[1:3].mean(0), v[2:].mean(0)]).double()
    assert torch.equal(means, expected)
    deviations = torch.cat([v[1:3] - means[1], v[2:] - means[2]])
    scatter = deviations.T @ deviations
    ridge = scatter.trace() / 4 * torch.eye(6)  # five deviations, one of them 0
    precision = 6 * torch.linalg.inv(scatter + ridge)
    assert torch.allclose(Moments.of(v, classes).precision(), precision, atol=1e-8)


def test_a_class_without_images_has_no_plane(samples) -> None:
    v, classes = samples
    kept = classes != 2
    planes = moments(v[kept], classes[kept]).planes()
    assert (planes[1] == 0).all() and (planes[0] != 0).any()
    kept = classes != 0
    assert (moments(v[kept], classes[kept]).planes() == 0).all()


def test_one_view_of_one_shot_has_finite_planes() -> None:
    planes = Moments.of(torch.eye(3, 5), torch.eye(3)).planes()
    assert planes.isfinite().all()


def test_evidence_is_zero_shot_plus_alpha_times_the_planes(supports, backbone, catalog) -> None:
    config = BaselineConfig(augment=AugmentConfig(views=2))
    views = SupportViews.of(backbone, supports[0], config.augment)
    v = views.views.embeddings
    scorer = fit("gda", backbone, catalog, views, config)
    features = ClassTexts.signs(catalog).frozen_features(backbone)
    gaussian = scorer.evidence(views.views) - text_evidence(v, features, backbone.logit_scale)
    planes = Moments.of(v, views.classes).planes().float()
    alpha = gaussian / (v @ planes[:, :-1].T + planes[:, -1])
    assert min(abs(float(alpha.median()) / known - 1) for known in ALPHAS) < 0.01


def test_alpha_has_the_lowest_loss_of_the_grid() -> None:
    labels = F.one_hot(torch.arange(20) % 4, 5)[:, 1:4].float()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20, 3, generator=generator)
    signal = 2 * labels - 1
    every = torch.ones(3, dtype=torch.bool)
    assert gda._searched(noise, signal, labels, every) == ALPHAS[-1]
    assert gda._searched(signal, noise, labels, every) <= 0.01
    none = ~every
    equal = gda._searched(noise, 5 * noise, labels, none)
    assert equal == pytest.approx(0.2)
