"""Seeds and images some at a time: the same results in less memory."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdmad.backbones.towers import Activations, Tower
from sdmad.backbones.towers.kinds import image_tower, text_tower
from sdmad.method import memory
from sdmad.method.adapter import AdapterConfig, TowerAdapterConfig, TowerAdapters
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.views import EncodedViews
from tests.backbones.small import TINY, Small, build
from tests.helpers import draw_adapters

KINDS = [
    "ViT-B-16-SigLIP",  # a head that reads all tokens
    "ViT-L-14-CLIPA",
    "MobileCLIP2-S0",  # blocks that take maps
    "coca_ViT-B-32",  # a mask for each text and head
    "roberta-ViT-B-32",  # a mask for each text
    "mt5-base-ViT-B-32",  # a position bias
]


@pytest.fixture(params=KINDS)
def small(request, tmp_path) -> Small:
    return build(request.param, tmp_path)


@pytest.fixture
def siglip(tmp_path) -> Small:
    return build("ViT-B-16-SigLIP", tmp_path)


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made while it is on have taken at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {storage.data_ptr() for storage in _storages((args, kwargs))}
        for storage in _storages(output):
            if storage.data_ptr() not in given and storage.data_ptr() not in self._alive:
                self._alive[storage.data_ptr()] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.data_ptr())
        self.peak = max(self.peak, self._now)
        return output

    def _freed(self, address: int) -> None:
        self._now -= self._alive.pop(address, 0)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return [tensor.untyped_storage() for tensor in tensors]


def live_bytes(compute: Callable[[], object]) -> int:
    gc.collect()
    with LiveBytes() as live:
        compute()
    return live.peak


def adapters(tower: Tower, seeds: int, blocks: int) -> TowerAdapters:
    made = TowerAdapters(seeds, tower.width, TowerAdapterConfig(blocks=blocks, bottleneck=4))
    return draw_adapters(made, seeds)


def for_each_seed(tower: Tower, activations: Activations, seeds: int) -> Activations:
    """As training gathers them: (S, B, T, D)."""
    f_in = activations.f_in.expand(seeds, *activations.f_in.shape).clone()
    f_frozen = activations.f_frozen.expand(seeds, *f_in.shape[1:]).clone()
    return activations.of_images(f_in, f_frozen)


def test_parts_are_in_order_nearly_equal_and_no_larger_than_asked() -> None:
    assert memory.parts(5, 9) == [slice(0, 5)]
    assert [len(range(7)[part]) for part in memory.parts(7, 3)] == [2, 3, 2]
    assert memory.parts(3, 0) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    for count in range(1, 30):
        for most in range(1, 12):
            parts = [range(count)[part] for part in memory.parts(count, most)]
            assert [k for part in parts for k in part] == list(range(count))
            assert max(map(len, parts)) <= most


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("rows", [1, 5])
def test_embeddings_in_parts_are_the_same(small, monkeypatch, blocks, rows) -> None:
    with torch.no_grad():
        for tower, inputs in (
            (image_tower(small.clip), small.images(3)),
            (text_tower(small.clip), small.token_ids(3)),
        ):
            activations = tower.prefix(inputs, blocks)
            many = adapters(tower, 4, blocks)
            whole = memory.adapted(tower, activations, many)
            assert torch.equal(whole, tower.suffix(activations, many.layers, 4)), "one part"
            budget = rows * memory.row_bytes(activations, blocks, training=False)
            monkeypatch.setattr(memory, "TOKENS_AT_ONCE", budget)
            in_parts = memory.adapted(tower, activations, many)
            monkeypatch.undo()
            assert torch.allclose(in_parts, whole, atol=1e-5)


def test_gradients_in_parts_are_the_same(small, monkeypatch) -> None:
    tower = image_tower(small.clip)
    many = adapters(tower, 3, 2)
    activations = for_each_seed(tower, tower.prefix(small.images(3), 2), 3)

    def gradients() -> list[torch.Tensor]:
        many.zero_grad()
        memory.adapted(tower, activations, many).pow(2).sum().backward()
        return [weight.grad.clone() for weight in many.parameters() if weight.grad is not None]

    whole = gradients()
    monkeypatch.setattr(
        memory, "TOKENS_AT_ONCE", 2 * memory.row_bytes(activations, 2, training=True)
    )
    for one, other in zip(gradients(), whole, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max()))
    assert len(whole) == 4


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-L-14-CLIPA", "EVA02-B-16"])
def test_the_budget_holds(monkeypatch, tmp_path, name, blocks, training) -> None:
    """With 144 tokens, so that tokens are what takes memory."""
    tower = image_tower(build(name, tmp_path).clip)
    many = adapters(tower, 6, blocks)
    tokens = torch.randn(6, 144, tower.width)
    rope = {"rope": torch.randn(143, 16)} if name.startswith("EVA") else {}
    activations = Activations(tokens, tokens, ((), rope))
    if training:
        activations = for_each_seed(tower, activations, 6)

    def compute() -> None:
        with torch.set_grad_enabled(training):
            embeddings = memory.adapted(tower, activations, many)
            if training:
                embeddings.sum().backward()

    row = memory.row_bytes(activations, blocks, training)
    assert live_bytes(compute) > 4 * row
    monkeypatch.setattr(memory, "TOKENS_AT_ONCE", 4 * row)
    assert live_bytes(compute) < 4 * row


def config(blocks: int) -> LearnerConfig:
    adapted = TowerAdapterConfig(blocks=blocks, bottleneck=4)
    return LearnerConfig(
        steps=3,
        augment=AugmentConfig(views=2),
        adapter=AdapterConfig(image=adapted, text=adapted),
    )


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(
    ("tokens_at_once", "views_kept"),
    [(1, 1000), (1 << 30, 8), (1 << 30, 20), (1 << 30, 3), (1, 0)],
    ids=["seed by seed", "a fit at a time", "two fits", "some views", "no views"],
)
def test_fits_in_little_memory_are_the_same(
    siglip, monkeypatch, blocks, tokens_at_once, views_kept
) -> None:
    backbone = siglip.backbone()
    supports = [siglip.support(seed) for seed in range(3)]
    model, rule = fit_batch(backbone, TINY, supports, config(blocks))
    one_view, _ = model.image_activations(siglip.images(1))
    view = 2 * one_view.f_in.nbytes
    monkeypatch.setattr(memory, "TOKENS_AT_ONCE", tokens_at_once)
    monkeypatch.setattr(memory, "CACHE", views_kept * view)
    small_model, small_rule = fit_batch(backbone, TINY, supports, config(blocks))
    # Adam makes steps of gradients that are rounding errors; what they change shows nowhere.
    with torch.no_grad():
        activations, _ = model.image_activations(siglip.images(3))
        for read in (lambda m: m.image_embeddings(activations), lambda m: m.sign_embeddings()):
            assert torch.allclose(read(small_model), read(model), atol=1e-5)
    assert torch.allclose(small_model.bias, model.bias, atol=1e-5)
    for name, value in vars(rule).items():
        assert torch.allclose(getattr(small_rule, name), value, atol=1e-5), name


def test_steps_are_reported_for_each_group_of_fits(siglip, monkeypatch) -> None:
    backbone = siglip.backbone()
    supports = [siglip.support(seed) for seed in range(2)]
    steps: list[int] = []
    fit_batch(backbone, TINY, supports, config(1), on_step=lambda step, _: steps.append(step))
    assert steps == [0, 1, 2]
    monkeypatch.setattr(memory, "CACHE", 0)
    fit_batch(backbone, TINY, supports, config(1), on_step=lambda step, _: steps.append(step))
    assert steps == [0, 1, 2] * 3


@pytest.mark.parametrize("kept", [0, 3, 100])
def test_views_that_are_not_kept_are_computed_again(siglip, monkeypatch, kept) -> None:
    backbone = siglip.backbone()
    model, _ = fit_batch(backbone, TINY, [siglip.support(0)], config(1))
    pixels = siglip.support(5).pixels
    expected, frozen = model.image_activations(backbone.pixels(pixels))
    monkeypatch.setattr(memory, "CACHE", kept * 2 * expected.f_in[:1].nbytes)
    views = EncodedViews(model, lambda numbers: pixels[list(numbers)], len(pixels))
    assert torch.equal(views.frozen, frozen)
    rows = torch.tensor([[0, 3, 3], [2, 1, 3]])
    got = views.take(rows)
    assert torch.allclose(got.f_in, expected.f_in[rows], atol=1e-5)
    assert torch.allclose(got.f_frozen, expected.f_frozen[rows], atol=1e-5)
    assert torch.equal(got.patches, expected.patches[rows])
