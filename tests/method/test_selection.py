import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sdmad.method.selection import (
    SelectionConfig,
    agreement,
    image_gate,
    pairwise_auc,
    placed_auc,
    placements,
    reliability_weights,
)

MEMBERSHIP = torch.tensor([[True, True, False], [False, True, True]])


def weights_of(
    scores: torch.Tensor, labels: torch.Tensor, config: SelectionConfig | None = None
) -> torch.Tensor:
    placed = placements(scores, labels)
    agreed = agreement(placed, labels, MEMBERSHIP)
    auc = placed_auc(placed, labels)
    return reliability_weights(auc, agreed, MEMBERSHIP, config or SelectionConfig())


def test_auc_equals_scikit_learns() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 20, 3).round(decimals=1)
    labels = (torch.rand(2, 20, 2) < 0.4).float()
    auc = pairwise_auc(scores, labels)
    for seed in range(2):
        for c in range(2):
            for sign in range(3):
                expected = roc_auc_score(labels[seed, :, c], scores[seed, :, sign])
                assert abs(auc[seed, c, sign] - expected) < 1e-6


def test_auc_without_positives_is_chance() -> None:
    assert (pairwise_auc(torch.randn(1, 4, 3), torch.zeros(1, 4, 2)) == 0.5).all()


def test_a_sign_that_separates_weighs_more_than_one_that_does_not() -> None:
    labels = torch.tensor([[[1.0, 0], [1.0, 0], [0, 0], [0, 0]]])
    scores = torch.tensor([[[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.1, 0], [0.2, 0.2, 0]]])
    weights = weights_of(scores, labels)
    assert weights[0, 0, 0] > 0.7 > 0.3 > weights[0, 0, 1] > 0


def test_one_image_of_each_category_leaves_signs_at_equal_weights() -> None:
    scores = torch.tensor([[[0.9, 0.1, 0], [0.1, 0.1, 0]]])
    labels = torch.tensor([[[1.0, 0], [0, 0]]])
    assert torch.equal(weights_of(scores, labels)[0, 0], torch.tensor([0.5, 0.5, 0]))


def test_agreement_is_cronbachs_alpha_of_one_category() -> None:
    generator = torch.Generator().manual_seed(0)
    placed = torch.rand(1, 7, 1, 5, generator=generator) + torch.linspace(0, 1, 5)
    labels = torch.tensor([1.0, 1, 1, 1, 1, 0, 0])[None, :, None]
    covariance = np.cov(placed[0, :5, 0].double().numpy())  # Of images, over signs.
    alpha = 5 / 4 * (1 - covariance.trace() / covariance.sum())
    assert 0.1 < alpha < 0.99
    found = agreement(placed, labels, torch.ones(1, 5, dtype=torch.bool))
    assert abs(float(found[0]) - alpha) < 1e-5


def test_images_that_contradict_each_other_leave_signs_at_equal_weights() -> None:
    labels = torch.tensor([[[1.0, 0], [1.0, 0], [0, 0], [0, 0]]])
    scores = torch.tensor([[[0.9, 0.1, 0], [0.1, 0.9, 0], [0.2, 0.3, 0], [0.3, 0.2, 0]]])
    assert torch.equal(weights_of(scores, labels)[0, 0], torch.tensor([0.5, 0.5, 0]))


def test_noise_is_followed_less_than_signs_that_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(1, 24, 2)
    labels[:, :8, 0], labels[:, 8:16, 1] = 1, 1
    noise = torch.randn(64, 24, 3, generator=generator)
    labels = labels.expand(64, -1, -1)
    real = noise.clone()
    real[:, :8, 0] += 2
    real[:, 8:16, 2] += 2
    spread = {}
    for name, scores in (("noise", noise), ("real", real)):
        spread[name] = float((weights_of(scores, labels)[:, MEMBERSHIP] - 0.5).abs().mean())
    assert spread["noise"] < 0.5 * spread["real"]


@given(st.integers(0, 2**31 - 1), st.floats(0.01, 0.5))
def test_weights_of_a_category_are_positive_and_sum_to_one(seed, floor) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 9, 3, generator=generator)
    labels = (torch.rand(2, 9, 2, generator=generator) < 0.3).float()
    weights = weights_of(scores, labels, SelectionConfig(floor=floor))
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2), atol=1e-5)
    assert (weights[:, ~MEMBERSHIP] == 0).all()
    assert (weights[:, MEMBERSHIP] > 0).all()


def test_gate_keeps_signs_above_normal_and_fades_signs_below() -> None:
    similarities = torch.tensor([[[2.0, -3.0, -1.0]]])
    gate = image_gate(similarities, torch.zeros(1, 1), SelectionConfig()).exp()[0, 0]
    assert gate[0] > 0.99
    assert gate[1] < 0.02
    assert gate[2] == 0.5, "the margin is where a sign counts half"


def test_modes_switch_the_two_parts() -> None:
    parts = {m: SelectionConfig(mode=m) for m in ("none", "underfit", "uncertain", "both")}
    assert [c.weighs_signs for c in parts.values()] == [False, True, False, True]
    assert [c.gates_images for c in parts.values()] == [False, False, True, True]
