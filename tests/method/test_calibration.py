import torch

from sdmad.method.calibration import fit_temperature, undecided_band


def test_temperature_undoes_a_scaling_of_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 4000, 1, generator=generator)
    labels = (torch.rand(1, 4000, 1, generator=generator) < torch.sigmoid(truth)).float()
    for factor in (0.5, 1.0, 4.0):
        fitted = fit_temperature(factor * truth, labels)
        assert abs(float(fitted) / factor - 1) < 0.15


def test_band_is_the_gap_between_separated_groups() -> None:
    p = torch.tensor([0.1] * 20 + [0.8] * 20).view(1, 40, 1)
    labels = torch.tensor([0.0] * 20 + [1.0] * 20).view(1, 40, 1)
    assert torch.allclose(undecided_band(p, labels)[0, 0], torch.tensor([0.1, 0.8]))


def test_band_is_the_overlap_of_mixed_groups_and_includes_one_half() -> None:
    p = torch.linspace(0, 1, 101).repeat(2).view(1, 202, 1)
    labels = torch.tensor([0.0] * 101 + [1.0] * 101).view(1, 202, 1)
    low, high = undecided_band(p, labels)[0, 0].tolist()
    assert abs(low - 0.05) < 1e-5
    assert abs(high - 0.95) < 1e-5
    far = undecided_band(p / 4, labels)[0, 0]
    assert far[1] == 0.5
