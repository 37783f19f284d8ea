import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdmad.backbones.identity import fingerprint
from sdmad.backbones.towers import Tower
from sdmad.backbones.towers.kinds import image_tower, text_tower
from sdmad.baselines import BaselineConfig, SupportViews, clip_lora, fit
from sdmad.baselines.clip_lora import AdaptedTower, LowRank, attention_weights
from sdmad.baselines.texts import ClassTexts, text_evidence
from sdmad.errors import UserError
from sdmad.method.augment import AugmentConfig
from tests.backbones.small import build
from tests.backbones.test_towers import biomed_clip, own_clip, token_ids

ARCHITECTURES = (
    "ViT-B-32",
    "coca_ViT-B-32",
    "roberta-ViT-B-32",
    "mt5-base-ViT-B-32",
    "nllb-clip-base",
    "ViT-B-16-SigLIP",
    "EVA02-B-16",
    "PE-Core-B-16",
    "ViTamin-S",
    "MobileCLIP2-S0",
    "swin_base_patch4_window7_224",
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def before_blocks(tower: Tower, inputs: torch.Tensor):
    return tower.prefix(inputs, len(tower.blocks))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_starts_at_the_frozen_model_and_changes_every_block(architecture, tmp_path) -> None:
    small = build(architecture, tmp_path)
    for tower, inputs in (
        (image_tower(small.clip), small.images(3)),
        (text_tower(small.clip), small.token_ids(4)),
    ):
        adapted = AdaptedTower(tower, generator())
        activations = before_blocks(tower, inputs)
        with torch.no_grad():
            start = adapted(activations)
            expected = F.normalize(tower.suffix(activations, frozen(tower))[0], dim=-1)
            assert torch.equal(start, expected), "bit for bit"
            assert torch.allclose(start, F.normalize(tower.run(inputs), dim=-1), atol=1e-5)
        assert all(block.changes for block in adapted.tower.blocks)
        start = adapted(activations)
        (start * torch.randn(start.shape, generator=generator())).sum().backward()
        assert all(change.b.grad.abs().sum() > 0 for change in adapted.changes)


def frozen(tower: Tower):
    """Adapters that hand on the frozen output of every block."""

    def output(f_in: torch.Tensor, f_frozen: torch.Tensor) -> torch.Tensor:
        return f_frozen if f_frozen.dim() == 4 else f_frozen[None]

    return [output] * len(tower.blocks)


def test_queries_keys_and_values_are_changed_and_nothing_else(tmp_path) -> None:
    clip = biomed_clip(tmp_path, "mean_pooler")
    image, text = image_tower(clip).blocks[0], text_tower(clip).blocks[0]
    own = text_tower(own_clip()).blocks[0]
    assert [(name, count) for name, _, count in attention_weights(image)] == [
        ("attn.qkv.weight", 3)
    ]
    assert [name for name, _, _ in attention_weights(text)] == [
        f"attention.self.{name}.weight" for name in ("query", "key", "value")
    ]
    assert [(name, count) for name, _, count in attention_weights(own)] == [
        ("attn.in_proj_weight", 3)
    ]


def test_the_change_of_a_stacked_weight_has_rank_two_in_each_part() -> None:
    weight = torch.randn(24, 8, generator=generator())
    change = LowRank(weight, 3, generator()).eval()
    assert torch.equal(change(weight), weight)
    with torch.no_grad():
        change.b.normal_(generator=generator())
        delta = change(weight) - weight
    for part, a, b in zip(delta.split(8), change.a, change.b, strict=True):
        assert torch.allclose(part, b @ a / 2**0.5, atol=1e-5)
        assert torch.linalg.matrix_rank(part, rtol=1e-4) == 2


def test_dropout_leaves_out_a_quarter_of_the_channels_in_training_alone() -> None:
    weight = torch.zeros(4, 4000)
    change = LowRank(weight, 1, generator())
    with torch.no_grad():
        change.b.fill_(1)
        dropped = change(weight)[0] == 0
        assert 0.2 < dropped.float().mean() < 0.3
        assert not torch.equal(change(weight)[0] == 0, dropped)
        assert (change.eval()(weight)[0] != 0).all()


def test_an_adapted_tower_is_the_tower_with_the_changed_weights() -> None:
    clip = own_clip().eval().requires_grad_(False)
    tower = text_tower(clip)
    adapted = AdaptedTower(tower, generator()).eval()
    texts = token_ids()
    with torch.no_grad():
        for change in adapted.changes:
            change.b.normal_(generator=generator())
        got = adapted(before_blocks(tower, texts))
        for block, of in zip(tower.blocks, adapted.changes, strict=True):
            block.attn.in_proj_weight.copy_(of(block.attn.in_proj_weight))
        expected = F.normalize(tower.run(texts), dim=-1)
    # Padding is cut, so sums are shorter.
    assert torch.allclose(got, expected, atol=1e-5)


def test_without_steps_it_is_zero_shot_clip(supports, backbone, catalog) -> None:
    config = BaselineConfig(steps=0, augment=AugmentConfig(views=1))
    views = SupportViews.of(backbone, supports[0], config.augment)
    scorer = fit("clip_lora", backbone, catalog, views, config)
    features = ClassTexts.signs(catalog).frozen_features(backbone)
    expected = text_evidence(views.views.embeddings, features, backbone.logit_scale)
    assert torch.allclose(scorer.evidence(views.views), expected, atol=1e-4)


def test_training_changes_both_towers_and_leaves_the_backbone(
    supports, backbone, catalog, monkeypatch
) -> None:
    made: list[AdaptedTower] = []

    class Kept(AdaptedTower):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(clip_lora, "AdaptedTower", Kept)
    config = BaselineConfig(steps=2, augment=AugmentConfig(views=1))
    fit("clip_lora", backbone, catalog, supports[0], config)
    assert fingerprint(backbone.text.clip) == backbone.fingerprint
    for tower in made:
        assert all(change.b.abs().sum() > 0 for change in tower.changes)
    assert len(made) == 2


def test_a_tower_without_known_attention_is_refused_in_one_sentence() -> None:
    tower = image_tower(own_clip())
    tower.blocks = nn.ModuleList([nn.Linear(4, 4)])
    with pytest.raises(UserError, match="leave clip_lora out of the methods") as told:
        AdaptedTower(tower, generator())
    assert str(told.value).count(".") == 0
