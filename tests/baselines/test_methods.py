"""Each baseline follows the formulas of its paper."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdmad.backbones.towers import Activations
from sdmad.backbones.towers.kinds import image_tower, text_tower
from sdmad.baselines import BASELINES, BaselineConfig, fit
from sdmad.baselines.aa_clip import AdaptedTower, ResidualAdapter
from sdmad.baselines.coop import CONTEXT, PromptLearner
from sdmad.baselines.mvfa import RESIDUAL_WEIGHT, LevelAdapter
from sdmad.baselines.residual import adapted_tower
from sdmad.baselines.texts import ClassTexts
from sdmad.baselines.tip_adapter import Cache
from sdmad.method.augment import AugmentConfig
from tests.backbones.small import TINY, build
from tests.backbones.test_towers import biomed_clip, own_clip, token_ids


@pytest.fixture
def clip(tmp_path) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"class token": own_clip(), "timm": biomed_clip(tmp_path, "mean_pooler")}


@pytest.mark.parametrize("kind", ["class token", "timm"])
@pytest.mark.parametrize("block", [0, 1])
def test_identity_adapters_leave_the_embeddings_unchanged(clip, kind, block) -> None:
    tower = image_tower(clip[kind].eval().requires_grad_(False))
    side = 32 if kind == "class token" else 160
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    activations = tower.prefix(images, len(tower.blocks) - block)
    got = adapted_tower(tower, activations, {block: nn.Identity()})
    assert torch.allclose(got, tower.run(images), atol=1e-5)
    changed = adapted_tower(tower, activations, {block: nn.ReLU()})
    assert not torch.allclose(changed, got, atol=1e-3)
    assert tower.class_tokens == 1


def test_the_last_block_computes_only_the_token_that_is_read() -> None:
    clip = own_clip().eval().requires_grad_(False)
    for tower, inputs in (
        (image_tower(clip), torch.randn(3, 3, 32, 32)),
        (text_tower(clip), token_ids()),
    ):
        activations = tower.prefix(inputs, 3)
        tokens = activations.f_frozen.clone().requires_grad_()
        counts: list[int] = []
        tower.blocks[2].mlp.register_forward_pre_hook(
            lambda _, args, counts=counts: counts.append(args[0].shape[1])
        )
        embeddings, gradients = [], []
        for adapters in ({0: nn.Identity()}, {0: nn.Identity(), 2: nn.Identity()}):
            some = adapted_tower(tower, replace(activations, f_frozen=tokens), adapters)
            embeddings.append(some.detach())
            gradients.append(torch.autograd.grad(some.square().sum(), tokens)[0])
        assert counts == [1, tokens.shape[1]]
        assert torch.allclose(*embeddings, atol=1e-5)
        assert torch.allclose(*gradients, atol=1e-5)
        assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("method", sorted(BASELINES))
@pytest.mark.parametrize(
    "architecture", ["coca_ViT-B-32", "MobileCLIP2-S0", "ViT-B-16-SigLIP", "mt5-base-ViT-B-32"]
)
def test_every_method_fits_every_kind_of_tower(architecture, method, tmp_path) -> None:
    """CoCa's towers return tokens beside embeddings, MobileCLIP's blocks take maps, SigLIP's head
    reads all tokens, the blocks of mT5 share a position bias."""
    small = build(architecture, tmp_path)
    budget = BaselineConfig(steps=2, augment=AugmentConfig(views=2))
    scorer = fit(method, small.backbone(), TINY, small.support(0), budget)
    scores = scorer.scores(small.support(1).pixels)
    assert scores.shape == (4, 1)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_mvfa_has_no_class_token_to_skip_in_a_tower_without(backbone) -> None:
    assert backbone.image.class_tokens == 0


def test_mvfa_mixes_tokens_with_a_tenth_of_their_adaptation() -> None:
    adapter = LevelAdapter(6, 4, torch.Generator().manual_seed(0))
    tokens = torch.randn(1, 2, 3, 6)
    mixed = adapter(tokens)
    assert adapter.features.shape == (1, 2, 3, 4)
    adapted = F.leaky_relu(F.leaky_relu(tokens @ adapter.down.weight.T) @ adapter.up.weight.T)
    expected = RESIDUAL_WEIGHT * adapted + (1 - RESIDUAL_WEIGHT) * tokens
    assert torch.allclose(mixed, expected, atol=1e-6)


def test_aa_clip_adapts_a_quarter_of_the_blocks_and_keeps_norms(backbone) -> None:
    tower = AdaptedTower(backbone.image, 128, torch.Generator().manual_seed(0))
    assert len(tower.adapters) == 2  # of 6
    tokens = torch.randn(1, 2, 3, 16)
    adapter = ResidualAdapter(16, torch.Generator().manual_seed(0))
    adapted = (adapter(tokens) - 0.9 * tokens) / 0.1
    assert torch.allclose(adapted.norm(dim=-1), tokens.norm(dim=-1), rtol=1e-3)


def test_coop_with_a_context_of_zeros_reads_the_placeholder_words(backbone, catalog) -> None:
    texts = ClassTexts.signs(catalog)
    learner = PromptLearner(backbone, texts, torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = learner.features()
        learner.context.zero_()
        placeholders = learner.features()
    words = " ".join(["x"] * CONTEXT)
    expected = texts.features(backbone.embed_texts([f"{words} {text}" for text in texts.texts]))
    assert torch.allclose(placeholders, expected, atol=1e-5)
    assert not torch.allclose(drawn, expected, atol=1e-5)


def test_coop_trains_only_its_context(backbone, catalog) -> None:
    learner = PromptLearner(backbone, ClassTexts.names(catalog), torch.Generator().manual_seed(0))
    learner.features().sum().backward()
    assert [name for name, _ in learner.named_parameters()] == ["context"]
    assert learner.context.grad is not None and learner.context.grad.abs().sum() > 0


def test_tip_adapter_weighs_labels_by_the_affinity_of_their_keys() -> None:
    keys = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    values = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]])
    cache = Cache(keys, values, torch.zeros(3, 8), 20.0, alpha=2.0, beta=5.0)
    v = keys[:1]
    affinity = torch.exp(-5 * (1 - v @ keys.T))[0]
    expected = 2 * torch.stack([affinity[1] + affinity[2] - affinity[0], affinity[2] - affinity[0]])
    assert torch.allclose(cache.evidence(v)[0], expected, atol=1e-5)
    own = torch.tensor([[True, False, False]])
    without = 2 * torch.stack([affinity[1] + affinity[2], affinity[2]])
    assert torch.allclose(cache.evidence(v, hidden=own)[0], without, atol=1e-5)


def test_an_adapted_tower_accepts_a_single_image() -> None:
    tower = image_tower(own_clip().eval().requires_grad_(False))
    one: Activations = tower.prefix(torch.zeros(1, 3, 32, 32), 3)
    assert adapted_tower(tower, one, {0: nn.Identity()}).shape == (1, 24)
