import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sdmad.method.selection import (
    SelectionConfig,
    image_gate,
    pairwise_auc,
    reliability_weights,
)

MEMBERSHIP = torch.tensor([[True, True, False], [False, True, True]])


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
    weights = reliability_weights(
        pairwise_auc(scores, labels), labels, MEMBERSHIP, SelectionConfig()
    )
    assert weights[0, 0, 0] > 0.7 > 0.3 > weights[0, 0, 1] > 0


def test_weights_are_closer_to_equal_at_fewer_shots() -> None:
    scores = torch.tensor([[[0.9, 0.1, 0], [0.1, 0.1, 0]]])
    labels = torch.tensor([[[1.0, 0], [0, 0]]])
    one = reliability_weights(
        pairwise_auc(scores, labels), labels, MEMBERSHIP, SelectionConfig(prior_shots=3)
    )
    scores, labels = scores.repeat(1, 8, 1), labels.repeat(1, 8, 1)
    auc = pairwise_auc(scores, labels)
    many = reliability_weights(auc, labels, MEMBERSHIP, SelectionConfig(prior_shots=3))
    assert 0.5 < one[0, 0, 0] < many[0, 0, 0]


@given(st.integers(0, 2**31 - 1), st.floats(0, 10), st.floats(0.01, 0.5))
def test_weights_of_a_category_are_positive_and_sum_to_one(seed, prior, floor) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 9, 3, generator=generator)
    labels = (torch.rand(2, 9, 2, generator=generator) < 0.3).float()
    config = SelectionConfig(prior_shots=max(prior, 0.1), floor=floor)
    weights = reliability_weights(pairwise_auc(scores, labels), labels, MEMBERSHIP, config)
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
