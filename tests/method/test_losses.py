import math

import pytest
import torch

from sdmad.method import losses

MEMBERSHIP = torch.tensor([[True, True, False, False], [False, True, True, False]])
NORMAL = torch.tensor([False, False, False, True])


def test_soft_maximum_lies_between_mean_and_maximum() -> None:
    scores = torch.tensor([1.0, 2.0, 5.0])
    weights = losses.uniform_log_weights(torch.tensor([True, True, True]))
    value = losses.soft_maximum(scores, weights)
    assert scores.mean() < value < scores.max()
    by_hand = math.log((math.e + math.e**2 + math.e**5) / 3)
    assert value == pytest.approx(by_hand, abs=1e-5)


def test_signs_of_other_categories_do_not_change_the_evidence() -> None:
    weights = losses.uniform_log_weights(MEMBERSHIP)
    normal = losses.uniform_log_weights(NORMAL)
    z = torch.zeros(1, 1, 4)
    z[..., 2] = 5.0
    evidence = losses.category_evidence(z, weights, normal)
    assert evidence[0, 0, 0] == pytest.approx(0.0, abs=1e-6)
    assert evidence[0, 0, 1] > 1


def test_midpoint_bias_is_halfway_between_the_means_with_and_without_a_category() -> None:
    evidence = torch.tensor([[[4.0], [2.0], [-1.0], [-3.0]]])
    labels = torch.tensor([[[1.0], [1.0], [0.0], [0.0]]])
    assert losses.midpoint_bias(evidence, labels).tolist() == [[0.5]]


def test_category_loss_gives_both_sides_the_same_total_weight() -> None:
    """One positive, nine negatives: logits of 0 cost log 2, whatever the balance."""
    labels = torch.zeros(1, 10, 1)
    labels[0, 0] = 1
    assert losses.category_loss(torch.zeros(1, 10, 1), labels)[0] == pytest.approx(math.log(2))
    only_positive = torch.zeros(1, 10, 1)
    only_positive[0, 0] = 20.0
    only_negative = torch.full((1, 10, 1), -20.0)
    only_negative[0, 0] = 0.0
    # Certainty about the one positive gains as much as certainty about the nine negatives.
    gains = [losses.category_loss(x, labels)[0] for x in (only_positive, only_negative)]
    assert gains[0] == pytest.approx(float(gains[1]), abs=1e-6)


def test_a_sign_shared_with_a_present_category_is_never_a_negative() -> None:
    labels = torch.tensor([[[1.0, 0.0]]])
    z = torch.tensor([[[0.1, 0.2, 0.3, 0.0]]], requires_grad=True)
    losses.sign_loss(z, labels, MEMBERSHIP, NORMAL).sum().backward()
    gradient = z.grad[0, 0]
    assert gradient[0] < 0
    assert gradient[1] < 0, "the shared sign is a positive"
    assert gradient[2] > 0
    assert gradient[3] > 0


def test_the_positives_of_a_normal_image_are_the_signs_of_normal() -> None:
    z = torch.zeros(1, 1, 4, requires_grad=True)
    losses.sign_loss(z, torch.zeros(1, 1, 2), MEMBERSHIP, NORMAL).sum().backward()
    assert (z.grad[0, 0] < 0).tolist() == [False, False, False, True]


def test_discrepancy_is_zero_for_orthogonal_and_large_for_equal_prototypes() -> None:
    labels = torch.eye(2)[None]
    apart = torch.eye(4)[None]
    images_apart, images_equal = torch.eye(4)[None, :2], torch.eye(4)[None, [0, 0]]
    equal = apart.clone()
    equal[0, 2] = equal[0, 0]
    found = [
        losses.discrepancy_loss(i, s, labels, MEMBERSHIP, margin=0.3)[0]
        for i, s in ((images_apart, apart), (images_equal, equal))
    ]
    assert found[0] == 0
    assert found[1] == pytest.approx(2 * 0.7, abs=1e-5)


def test_losses_of_one_seed_do_not_depend_on_the_others() -> None:
    z, labels = torch.randn(3, 5, 4), (torch.rand(3, 5, 2) < 0.5).float()
    together = losses.sign_loss(z, labels, MEMBERSHIP, NORMAL)
    alone = losses.sign_loss(z[1:2], labels[1:2], MEMBERSHIP, NORMAL)
    assert torch.allclose(together[1:2], alone)


def test_equal_soft_maxima_are_soft_maxima_with_equal_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 5 * torch.randn(2, 7, 9, generator=generator)
    membership = torch.rand(4, 9, generator=generator) < 0.4
    membership[:, 0] = True
    expected = losses.soft_maximum(scores[..., None, :], losses.uniform_log_weights(membership))
    found = losses.equal_soft_maxima(scores, membership)
    assert torch.allclose(found, expected, atol=1e-5)
    far = losses.equal_soft_maxima(torch.tensor([[0.0, -500.0]]), torch.tensor([[False, True]]))
    assert -90 < far.item() < -80, "finite where the exponential is 0"
