import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdmad.baselines import BaselineConfig, SupportViews, fit
from sdmad.baselines.base import Task
from sdmad.baselines.lp_plus import ALPHA_PER_TAU, Classifier, start, steps
from sdmad.baselines.texts import ClassTexts
from sdmad.method.augment import AugmentConfig
from sdmad.method.losses import category_loss

CONFIG = BaselineConfig(steps=30, augment=AugmentConfig(views=2))


@pytest.fixture
def task(supports, backbone, catalog) -> Task:
    views = SupportViews.of(backbone, supports[0], CONFIG.augment)
    return Task(backbone, catalog, views, CONFIG, torch.Generator().manual_seed(0))


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit embeddings (30, 6), labels (30, 3) with several categories, features (4, 6)."""
    generator = torch.Generator().manual_seed(0)
    v = F.normalize(torch.randn(30, 6, generator=generator) + 1, dim=-1).double()
    labels = (torch.rand(30, 3, generator=generator) < 0.4).double()
    features = F.normalize(torch.randn(4, 6, generator=generator), dim=-1).double()
    return v, labels, features


def test_evidence_blends_prototypes_and_text_features(problem) -> None:
    v, _, features = problem
    generator = torch.Generator().manual_seed(1)
    planes = torch.randn(4, 7, generator=generator).double()
    alpha = torch.tensor([1.0, 2.0, 0.5, 3.0]).double()
    logits = np.array(
        [[f @ (planes[k, :6] + alpha[k] * features[k]) + planes[k, 6] for k in range(4)] for f in v]
    )
    got = Classifier(planes, alpha, features).evidence(v)
    assert np.allclose(got.numpy(), logits[:, 1:] - logits[:, :1])


def test_it_starts_at_class_sums_and_the_mean_similarity_to_the_text(task, supports) -> None:
    support, views = supports[0], task.support
    classifier = start(task)
    features = ClassTexts.signs(task.catalog).frozen_features(task.backbone)
    by_image = views.views.embeddings.unflatten(0, (-1, 2)).mean(1)
    labels = torch.from_numpy(support.labels[np.argsort(support.keys)])
    normal = by_image[labels.sum(1) == 0].sum(0)
    assert torch.allclose(classifier.planes[0, :-1], normal, atol=1e-5)
    second = by_image[labels[:, 1] == 1].sum(0)
    assert torch.allclose(classifier.planes[2, :-1], second, atol=1e-5)
    own = [
        by_image[row] @ features[k]
        for row, image in enumerate(labels)
        for k in range(len(features))
        if (image[k - 1] == 1 if k else image.sum() == 0)
    ]
    expected = ALPHA_PER_TAU * task.backbone.logit_scale * torch.stack(own).mean()
    assert torch.allclose(classifier.alpha, expected.clamp_min(0), atol=1e-4)


def curvature(function, point: torch.Tensor) -> float:
    """The largest eigenvalue of the Hessian of a function of one tensor."""
    hessian = torch.autograd.functional.hessian(function, point)
    return float(torch.linalg.eigvalsh(hessian.reshape(point.numel(), -1)).amax())


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_steps_are_at_most_the_inverse_of_the_curvature_anywhere(problem, scale) -> None:
    v, labels, features = problem
    step, alpha_step = steps(v, labels, features)
    generator = torch.Generator().manual_seed(2)
    planes = scale * torch.randn(4, 7, generator=generator).double()
    alpha = scale * torch.randn(4, generator=generator).double()

    def loss(planes: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        evidence = Classifier(planes, alpha, features).evidence(v)
        return category_loss(evidence[None], labels[None])[0]

    assert curvature(lambda p: loss(p, alpha), planes) <= 1 / step + 1e-9
    assert curvature(lambda a: loss(planes, a), alpha) <= 1 / alpha_step + 1e-9


def test_the_bounds_are_not_loose(problem) -> None:
    """At 0, where the second derivative of the logistic loss is largest."""
    v, labels, features = problem
    step, alpha_step = steps(v, labels, features)

    def loss(planes: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        evidence = Classifier(planes, alpha, features).evidence(v)
        return category_loss(evidence[None], labels[None])[0]

    zero, none = torch.zeros(4, 7).double(), torch.zeros(4).double()
    assert curvature(lambda p: loss(p, none), zero) > 0.7 / step
    assert curvature(lambda a: loss(zero, a), none) == pytest.approx(1 / alpha_step)


def test_the_loss_falls_and_both_blocks_move(task) -> None:
    support = task.support
    scorer = fit("lp_plus_plus", task.backbone, task.catalog, support, CONFIG)
    before = start(task).evidence(support.views.embeddings)
    after = scorer.evidence(support.views)
    losses = [category_loss(e[None], support.labels[None]) for e in (before, after)]
    assert losses[1] < losses[0]
