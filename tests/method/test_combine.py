import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from sdmad.method.combine import (
    SLOPE,
    SLOPES,
    PriorWeights,
    fit_slopes,
    fit_weights,
    penalised_logistic,
    prior_weights,
)

PRIOR = PriorWeights((3.0, 0.4), (2.0, 0.4), 0.5)


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3))
    chance = 1 / (1 + np.exp(-features @ [2.0, -1.0, 0.5]))
    return features, (rng.random(count) < chance).astype(float)


def test_the_mode_around_zero_equals_scikit_learns_ridge() -> None:
    features, truth = rows(200)
    weights = np.random.default_rng(1).random(200)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=1000)
    theirs.fit(features, truth, sample_weight=weights)
    ours = penalised_logistic(
        *(torch.from_numpy(x) for x in (features, truth, weights)),
        torch.zeros(3, dtype=torch.float64),
        torch.full((3,), 0.5**0.5, dtype=torch.float64),
    )
    assert np.allclose(ours.numpy(), theirs.coef_[0], atol=1e-5)


def test_the_mode_around_other_weights_minimises_the_penalised_loss() -> None:
    features, truth = rows(30)
    mean, deviation = np.array([3.0, 0.4, 0.0]), np.array([1.0, 0.3, 0.1])

    def loss(found: np.ndarray) -> float:
        margin = (features @ found) * (2 * truth - 1)
        return float(np.logaddexp(0, -margin).sum() + (((found - mean) / deviation) ** 2).sum() / 2)

    theirs = minimize(loss, mean, tol=1e-12).x
    given = (features, truth, np.ones(30), mean, deviation)
    assert np.allclose(penalised_logistic(*(torch.from_numpy(x) for x in given)), theirs, atol=1e-4)


def voices(shots: int, useful: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs (N, 3) of a probe that separates by `useful`, of signs that say nothing, targets."""
    generator = torch.Generator().manual_seed(2)
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 0]]).repeat_interleave(shots, 0)
    probe = useful * (2 * targets - 1) + torch.randn(targets.shape, generator=generator)
    return probe, torch.randn(targets.shape, generator=generator), targets


def test_with_many_images_left_out_a_part_weighs_what_it_is_worth() -> None:
    good = fit_weights(*voices(200, 1.0), PRIOR).parts
    bad = fit_weights(*voices(200, 0.0), PRIOR).parts
    # The log odds of two normal distributions at +-1 with deviation 1 are 2 x.
    assert torch.allclose(good[:, 0], torch.full((3,), 2.0).double(), atol=0.35)
    assert (bad[:, 0] < 0.3).all()
    assert (good[:, 1] < 0.2).all(), "signs that say nothing"
    assert torch.equal(good[0], good[1]), "categories share their weights"


def test_one_shot_leaves_the_fixed_weights() -> None:
    probe, signs, targets = voices(1, 1.0)
    probe[torch.tensor([0, 1]), torch.tensor([0, 1])] = torch.nan
    found = fit_weights(probe, signs, targets, PRIOR)
    assert torch.allclose(found.parts, torch.tensor([[3.0, 0.4], [3.0, 0.4], [2.0, 0.4]]).double())
    assert not found.offset.any()


def test_a_part_that_is_off_stays_off() -> None:
    probe, signs, targets = voices(20, 1.0)
    no_probe, no_signs = PriorWeights((0, 0.4), (0, 0.4), 0), PriorWeights((3, 0), (3, 0), 0)
    assert not fit_weights(probe, signs, targets, no_probe).parts[:, 0].any()
    assert not fit_weights(probe, signs, targets, no_signs).parts[:, 1].any()


def test_with_few_shots_more_rests_on_the_frozen_model() -> None:
    one, four, many = (prior_weights(6, shots, 3.0, 0.4, 0.5) for shots in (1, 4, 100_000))
    assert one.anomaly[0] == one.adapted == 0, "nothing can be left out"
    assert one.category == (1.5, 0.8) and one.anomaly[1] == 0.8
    assert four.category[0] / four.category[1] > one.category[0] / one.category[1]
    assert np.allclose([*many.category, *many.anomaly, many.adapted], [3, 0.4, 3, 0.4, 0.5], 1e-3)


def test_the_anomaly_has_evidence_at_one_shot_even_without_signs() -> None:
    assert prior_weights(6, 1, 3.0, 0.0, 0.5).anomaly == (1.5, 0.0)


def test_a_single_category_is_any_anomaly() -> None:
    """The same question has one answer."""
    for shots in (1, 4):
        prior = prior_weights(1, shots, 3.0, 0.4, 0.5)
        assert prior.category == prior.anomaly == prior_weights(6, shots, 3.0, 0.4, 0.5).anomaly
    slopes = fit_slopes(torch.randn(9, 1).expand(9, 2), torch.eye(9)[:, :1].expand(9, 2))
    assert slopes[0] == slopes[1]


def test_outputs_that_contradict_the_labels_switch_the_probe_off() -> None:
    """Whole Newton steps circle here between two points, neither of which is the mode."""
    truth = torch.tensor([1.0, 0.0]).double().repeat(50)
    found = penalised_logistic(
        -1.2 * (2 * truth - 1)[:, None],
        truth,
        torch.ones(100).double(),
        torch.tensor([2.7]).double(),
        torch.tensor([1.0]).double(),
    )
    at = torch.linspace(-12, 3, 3001, dtype=torch.float64)
    wrong = torch.nn.functional.softplus(1.2 * at) * 100 + (at - 2.7).square() / 2
    assert abs(found - at[wrong.argmin()]) < 0.01


def test_the_slope_of_probabilities_is_that_of_left_out_images() -> None:
    generator = torch.Generator().manual_seed(3)
    targets = (torch.rand(4000, 3, generator=generator) < 0.5).float()
    x = 2 * targets - 1 + torch.randn(targets.shape, generator=generator)
    # The log odds of two normal distributions at +-1 with deviation 1 are 2 x.
    assert torch.allclose(fit_slopes(2 * x, targets), torch.ones(3).double(), atol=0.1)
    assert torch.allclose(fit_slopes(8 * x, targets), torch.full((3,), 0.25).double(), atol=0.03)
    assert torch.allclose(fit_slopes(-x, targets), SLOPES[0].expand(3))
    few, none = torch.full((3, 3), torch.nan), torch.eye(3)
    assert torch.allclose(
        fit_slopes(few, none), torch.tensor([SLOPE[0], *SLOPE]).double(), rtol=0.03
    )
