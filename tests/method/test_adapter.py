import torch
import torch.nn.functional as F

from sdmad.method.adapter import ShiftAdapter, TowerAdapterConfig


def made(seeds: int = 1, **settings: object) -> ShiftAdapter:
    adapter = ShiftAdapter(seeds, 12, TowerAdapterConfig(bottleneck=4, **settings))
    for seed in range(seeds):
        adapter.initialise(seed, torch.Generator().manual_seed(seed))
    return adapter


def test_the_output_follows_the_published_formula() -> None:
    """f_out = lambda f^_out + (1 - lambda) a(W2 a(W1 f_in)), SD-MAD."""
    adapter = made(frozen_weight=0.25, activation="leaky_relu", match_norm=False)
    torch.nn.init.normal_(adapter.up)
    f_in, f_frozen = torch.randn(1, 2, 3, 12), torch.randn(1, 2, 3, 12)
    f_ada = F.leaky_relu(F.leaky_relu(f_in @ adapter.down[0]) @ adapter.up[0])
    assert torch.allclose(adapter(f_in, f_frozen), 0.25 * f_frozen + 0.75 * f_ada, atol=1e-6)


def test_lambda_one_is_bit_for_bit_the_frozen_output() -> None:
    f_in, f_frozen = torch.randn(1, 2, 3, 12), torch.randn(1, 2, 3, 12)
    assert torch.equal(made(frozen_weight=1.0)(f_in, f_frozen), f_frozen)


def test_step_zero_is_the_frozen_output() -> None:
    f_in, f_frozen = torch.randn(1, 2, 3, 12), torch.randn(1, 2, 3, 12)
    assert torch.equal(made(frozen_weight=0.3)(f_in, f_frozen), f_frozen)
    plain = made(frozen_weight=0.25, match_norm=False)(f_in, f_frozen)
    assert torch.equal(plain, 0.25 * f_frozen)


def test_the_output_follows_the_units_of_the_tokens() -> None:
    """Longer input changes nothing, and the output is as much longer as the frozen output."""
    adapter = made(frozen_weight=0.5)
    torch.nn.init.normal_(adapter.up)
    f_in, f_frozen = torch.randn(1, 2, 3, 12), torch.randn(1, 2, 3, 12)
    out = adapter(f_in, f_frozen)
    assert torch.allclose(adapter(30 * f_in, f_frozen), out, atol=1e-5)
    assert torch.allclose(adapter(f_in, 30 * f_frozen), 30 * out, rtol=1e-4, atol=1e-4)


def test_activations_without_a_seed_dimension_are_shared_by_all_seeds() -> None:
    adapter = made(seeds=3, frozen_weight=0.5)
    torch.nn.init.normal_(adapter.up)
    f_in, f_frozen = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    shared = adapter(f_in, f_frozen)
    assert shared.shape == (3, 2, 5, 12)
    assert torch.allclose(
        shared, adapter(f_in.expand(3, -1, -1, -1), f_frozen.expand(3, -1, -1, -1))
    )


def test_every_activation_gives_gradients_to_both_weights() -> None:
    for activation in ("gelu", "leaky_relu"):
        adapter = made(frozen_weight=0.5, activation=activation)
        optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-3)
        for _ in range(2):  # W1 has no gradient before W2 has left zero.
            optimizer.zero_grad()
            adapter(torch.randn(1, 4, 2, 12), torch.randn(1, 4, 2, 12)).square().sum().backward()
            optimizer.step()
        assert adapter.down.grad.abs().sum() > 0
        assert adapter.up.grad.abs().sum() > 0


def test_initial_weights_depend_on_the_generator_alone() -> None:
    one, three = made(seeds=1), made(seeds=3)
    assert torch.equal(one.down[0], three.down[0])
    assert not torch.equal(three.down[0], three.down[1])
