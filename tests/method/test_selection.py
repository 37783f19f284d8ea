import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sdmad.method.selection import (
    SelectionConfig,
    image_gate,
    reliability_weights,
    separate,
)

MEMBERSHIP = torch.tensor([[True, True, False], [False, True, True]])


def weights_of(
    scores: torch.Tensor, labels: torch.Tensor, config: SelectionConfig | None = None
) -> torch.Tensor:
    found = separate(scores, labels, MEMBERSHIP)
    return reliability_weights(found.auc, found.agreed, MEMBERSHIP, config or SelectionConfig())


def test_auc_equals_scikit_learns() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 20, 3).round(decimals=1)
    labels = (torch.rand(2, 20, 2) < 0.4).float()
    auc = separate(scores, labels, MEMBERSHIP).auc
    for seed in range(2):
        for c in range(2):
            for sign in range(3):
                expected = roc_auc_score(labels[seed, :, c], scores[seed, :, sign])
                assert abs(auc[seed, c, sign] - expected) < 1e-6


def test_auc_without_positives_is_chance() -> None:
    assert (separate(torch.randn(1, 4, 3), torch.zeros(1, 4, 2), MEMBERSHIP).auc == 0.5).all()


def test_a_sign_that_separates_weighs_more_than_one_that_does_not() -> None:
    labels = torch.tensor([[[1.0, 0], [1.0, 0], [0, 0], [0, 0]]])
    scores = torch.tensor([[[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.1, 0], [0.2, 0.2, 0]]])
    weights = weights_of(scores, labels)
    assert weights[0, 0, 0] > 0.7 > 0.3 > weights[0, 0, 1] > 0


def test_one_image_of_each_category_leaves_signs_at_equal_weights() -> None:
    scores = torch.tensor([[[0.9, 0.1, 0], [0.1, 0.1, 0]]])
    labels = torch.tensor([[[1.0, 0], [0, 0]]])
    assert torch.equal(weights_of(scores, labels)[0, 0], torch.tensor([0.5, 0.5, 0]))


def test_auc_without_an_image_is_that_of_the_others() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 9, 3, generator=generator).round(decimals=1)
    labels = (torch.rand(2, 9, 2, generator=generator) < 0.4).float()
    labels[0, :, 1] = torch.eye(9)[4]
    found = separate(scores, labels, MEMBERSHIP).auc_without
    for n in range(9):
        others = [k for k in range(9) if k != n]
        assert torch.allclose(
            found[:, n], separate(scores[:, others], labels[:, others], MEMBERSHIP).auc
        )
    assert (found[0, 4, 1] == 0.5).all(), "no other image shows the category"


def test_agreement_leaves_out_products_of_pairs_that_share_an_image() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(1, 8, 3, generator=generator).round(decimals=1)
    scores[0, :4, 0] += 2
    scores[0, 3:5, 2] += 2
    labels = torch.zeros(1, 8, 2)
    labels[0, :4, 0] = labels[0, 3:5, 1] = 1
    again = seen = 0.0
    for c in range(2):
        shown, z = labels[0, :, c] > 0, scores[0][:, MEMBERSHIP[c]]
        u = (z[shown, None] > z[None, ~shown]).double()
        u += 0.5 * (z[shown, None] == z[None, ~shown]).double()
        d = (u - u.mean(-1, keepdim=True)).numpy()
        rows, columns = np.indices(d.shape[:2]).reshape(2, -1)
        apart = (rows[:, None] != rows) & (columns[:, None] != columns)
        d = d.reshape(len(rows), -1)
        again += (d @ d.T)[apart].mean()
        seen += np.square(d.mean(0)).sum()
    found = separate(scores, labels, MEMBERSHIP).agreed
    assert 0.1 < again / seen < 0.9
    assert torch.allclose(found, torch.tensor((again / seen) ** 0.5).float())


def test_large_supports_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 12, 3, generator=generator).round(decimals=1)
    labels = (torch.rand(2, 12, 2, generator=generator) < 0.4).float()
    whole = separate(scores, labels, MEMBERSHIP)
    monkeypatch.setattr("sdmad.method.selection.PAIRS_AT_ONCE", 5 * scores.numel())
    parts = separate(scores, labels, MEMBERSHIP)
    for name in ("auc", "auc_without", "agreed"):
        assert torch.allclose(getattr(parts, name), getattr(whole, name)), name


def test_a_category_with_one_image_keeps_equal_weights_beside_one_with_more() -> None:
    labels = torch.tensor([[[1.0, 0], [1.0, 0], [0, 1], [0, 0]]])
    scores = torch.tensor([[[0.9, 0.1, 0.3], [0.8, 0.2, 0], [0.1, 0.1, 0.8], [0.2, 0.2, 0]]])
    weights = weights_of(scores, labels)
    assert weights[0, 0, 0] > 0.6
    assert torch.equal(weights[0, 1], torch.tensor([0, 0.5, 0.5]))


def test_images_that_share_their_opposites_do_not_agree_by_that() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(200, 32, 1)
    labels[:, :16] = 1
    noise = torch.randn(200, 32, 6, generator=generator)
    found = separate(noise, labels, torch.ones(1, 6, dtype=torch.bool)).agreed
    assert found.square().mean() < 0.2, "0.38 with products of pairs that share an image"


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
