import itertools

import pytest
import torch

from sdmad.method.calibration import (
    Prevalence,
    among_anomalies,
    conformal_sets,
    conformal_thresholds,
    decided,
    fit_temperature,
    gated,
    undecided,
)


def test_temperature_undoes_a_scaling_of_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 4000, 1, generator=generator)
    labels = (torch.rand(1, 4000, 1, generator=generator) < torch.sigmoid(truth)).float()
    for factor in (0.5, 1.0, 4.0):
        fitted = fit_temperature(factor * truth, labels)
        assert abs(float(fitted) / factor - 1) < 0.15


def test_the_gate_multiplies_probabilities() -> None:
    logits, anomaly = torch.tensor([[-3.0, 0.0, 8.0], [40.0, -60.0, 2.0]]), torch.tensor([1.0, 30])
    expected = torch.sigmoid(logits.double()) * torch.sigmoid(anomaly.double())[:, None] ** 0.5
    assert torch.allclose(torch.sigmoid(gated(logits, anomaly, 0.5)).double(), expected, atol=1e-6)
    assert torch.allclose(gated(logits, anomaly, 0.0)[0], logits[0], atol=1e-4)
    assert torch.isfinite(gated(torch.full((1, 1), 500.0), torch.full((1,), 500.0), 0.5)).all()


def test_among_anomalies_at_least_one_category_is_there() -> None:
    """q_c against all 2^C combinations of independent categories, the empty one left out."""
    logits = torch.tensor([[0.3, -1.2, 2.0], [-9.0, -8.0, -9.5], [12.0, 0.0, -15.0]]).double()
    chance = torch.sigmoid(logits)
    expected, total = torch.zeros_like(chance), torch.zeros(3, 1).double()
    for some in itertools.product([0.0, 1.0], repeat=3):
        present = torch.tensor(some).double()
        weight = torch.where(present > 0, chance, 1 - chance).prod(1, keepdim=True)
        if present.any():
            expected += weight * present
            total += weight
    for given in (logits, logits.float()):
        found = torch.sigmoid(among_anomalies(given)).double()
        assert torch.allclose(found, expected / total, atol=1e-5)
    extreme = torch.tensor([[500.0, -500.0], [-500.0, -500.0], [-500.0, -501.0]])
    assert torch.isfinite(among_anomalies(extreme)).all()


def test_without_a_gate_or_with_one_category_logits_stay() -> None:
    slopes = torch.ones(3)
    heads = torch.tensor([[1.0, -2.0, 0.5]])
    assert torch.equal(decided(heads, 0.0, None, slopes)[0], heads[:, :2])
    assert torch.equal(decided(heads[:, 1:], 0.5, None, slopes[1:])[0], heads[:, 1:2])
    logits, anomaly = decided(heads, 0.5, None, slopes)
    expected = torch.sigmoid(among_anomalies(heads[:, :2])) * torch.sigmoid(heads[:, 2:]) ** 0.5
    assert torch.allclose(torch.sigmoid(logits), expected)
    assert torch.equal(anomaly, heads[:, 2])


@pytest.mark.parametrize("count", [9, 30, 200])
def test_conformal_sets_contain_the_truth_as_often_as_stated(count) -> None:
    """Over many supports, at least 90 % of new images of each kind, and not many more."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.ones(count, 1), torch.zeros(count, 1)])
    covered = []
    for _ in range(300):
        logits = 3 * labels + torch.randn(2 * count, 1, generator=generator)
        ends = conformal_thresholds(logits, labels, 0.9)[0]
        new = torch.randn(200, 2, generator=generator)
        covered.append(
            [(3 + new[:, 0] >= ends[0]).float().mean(), (new[:, 1] <= ends[1]).float().mean()]
        )
    means = torch.tensor(covered).mean(0)
    assert ((means > 0.89) & (means < 0.92 + 1 / count)).all(), means


def test_a_support_that_is_too_small_keeps_what_it_can_state() -> None:
    """Three images with the category: the sets contain it in three of four new images."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.cat([torch.ones(3, 1), torch.zeros(20, 1)])
    kept = []
    for _ in range(2000):
        logits = 3 * labels + torch.randn(23, 1, generator=generator)
        least = conformal_thresholds(logits, labels, 0.9)[0, 0]
        kept.append(float(3 + torch.randn(1, generator=generator) >= least))
    assert sum(kept) / 2000 == pytest.approx(0.75, abs=0.04)
    left_out = (10 * labels).masked_fill(labels > 0, torch.nan)
    assert conformal_thresholds(left_out, labels, 0.9)[0, 0] == 0


def test_undecided_are_images_with_both_answers_or_none() -> None:
    logits = torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1)
    overlap, gap = torch.tensor([[[-1.0, 1.0]]]), torch.tensor([[[1.0, -1.0]]])
    for ends in (overlap, gap):
        assert undecided(logits, ends)[0, :, 0].tolist() == [False, True, False]


def test_sets_at_a_stated_prevalence_contain_the_truth_as_often() -> None:
    """Thresholds and decisions come from the same logits."""
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(4000, 2, generator=random) < 0.3).float()
    anyone = labels.amax(1, keepdim=True)
    heads = 2 * torch.cat([labels, anyone], 1) - 1 + torch.randn(4000, 3, generator=random)
    stated = Prevalence(torch.tensor([0.05, 0.1]), 0.12)
    logits, _ = decided(heads, 0.5, stated, torch.full((3,), 0.7))
    ends = conformal_thresholds(logits[:400], labels[:400], 0.9)
    possible = conformal_sets(logits[None, 400:], ends[None])[0]
    for answer, of in ((0, labels[400:] > 0.5), (1, labels[400:] < 0.5)):
        assert possible[..., answer][of].float().mean() == pytest.approx(0.9, abs=0.03)
