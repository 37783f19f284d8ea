import torch

from sdmad.method.standard import PRIOR_IMAGES, Standard, fit_standard


def test_many_images_have_mean_zero_and_deviation_one() -> None:
    values = 3 + torch.randn(2, 5000, 4, generator=torch.Generator().manual_seed(0)) * 7
    found = fit_standard(values).apply(values)
    assert torch.allclose(found.mean(1), torch.zeros(2, 4), atol=1e-4)
    assert torch.allclose(found.std(1), torch.ones(2, 4), atol=0.03)


def test_few_images_are_drawn_towards_the_mean_over_columns() -> None:
    values = torch.tensor([[0.0, -10.0], [0.0, 0.0], [0.0, 10.0]])
    found = fit_standard(values).deviation
    by_hand = (PRIOR_IMAGES * (0 + 100) / 2 + torch.tensor([0.0, 200.0])) / (2 + PRIOR_IMAGES)
    assert torch.allclose(found, by_hand.sqrt())
    assert found[0] > 0, "a sign that never changes is not divided by zero"


def test_one_image_has_the_deviation_that_is_expected() -> None:
    found = fit_standard(torch.tensor([[5.0, 6.0]]), prior=2.0)
    assert torch.allclose(found.deviation, torch.tensor([2.0, 2.0]))
    assert isinstance(found, Standard)


def test_units_do_not_matter() -> None:
    values = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    one, five = fit_standard(values), fit_standard(5 * values)
    assert torch.allclose(one.apply(values), five.apply(5 * values), atol=1e-5)
