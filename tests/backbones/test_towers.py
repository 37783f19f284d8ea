"""Every kind of tower: splitting it changes nothing, adapters change something."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from timm.models.eva import EvaAttention
from torch import nn

from sdmad.backbones.packed import can_pack, pack
from sdmad.backbones.towers import Tower
from sdmad.backbones.towers.hugging_face import HuggingFaceTextTower
from sdmad.backbones.towers.kinds import image_tower, text_tower
from sdmad.backbones.towers.open_clip import OpenClipImageTower, OpenClipTextTower
from sdmad.backbones.towers.timm import TimmImageTower
from sdmad.errors import UserError
from sdmad.method.adapter import TowerAdapterConfig, TowerAdapters
from tests.helpers import draw_adapters

EMBED = 24
VIT = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "head_width": 12}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 40, "heads": 4, "layers": 3}


def own_clip(**vision: object) -> nn.Module:
    return CLIP(EMBED, VIT | vision, TEXT)


def biomed_clip(folder: Path, pooler: str) -> nn.Module:
    """The shape of BiomedCLIP: a timm image tower and a BERT with its own projection."""
    bert = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 100,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(bert))
    return CustomTextCLIP(
        EMBED,
        {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
        {
            "hf_model_name": str(folder),
            "hf_model_pretrained": False,
            "hf_proj_type": "mlp",
            "hf_pooler_type": pooler,
        },
    )


def token_ids() -> torch.Tensor:
    """Texts of different lengths; 99 ends each (argmax pooling), 0 pads."""
    ids = torch.zeros(4, 16, dtype=torch.long)
    for row, length in enumerate((3, 9, 5, 6)):
        ids[row, :length] = torch.randint(1, 90, (length,))
        ids[row, length] = 99
    return ids


@pytest.fixture(params=["open_clip", "avg_pool", "siglip_text", "biomed_cls", "biomed_mean"])
def towers(request, tmp_path) -> list[tuple[Tower, torch.Tensor]]:
    torch.manual_seed(0)
    if request.param == "open_clip":
        clip = own_clip()
    elif request.param == "avg_pool":
        clip = own_clip(pool_type="avg", final_ln_after_pool=True)
    elif request.param == "siglip_text":
        text = TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
        clip = CustomTextCLIP(EMBED, VIT, text)
    elif request.param == "biomed_cls":
        clip = biomed_clip(tmp_path, "cls_last_hidden_state_pooler")
    else:
        clip = biomed_clip(tmp_path, "mean_pooler")
    clip = clip.eval().requires_grad_(False)
    size = clip.visual.image_size
    side = size if isinstance(size, int) else size[0]
    images = torch.randn(5, 3, side, side)
    return [(image_tower(clip), images), (text_tower(clip), token_ids())]


def adapters(tower: Tower, seeds: int, **settings: object) -> TowerAdapters:
    config = TowerAdapterConfig(bottleneck=8, **settings)
    made = TowerAdapters(seeds, tower.width, config)
    return draw_adapters(made, seeds)


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_lambda_one_is_the_frozen_model(towers, blocks) -> None:
    for tower, inputs in towers:
        with torch.no_grad():
            expected = tower.run(inputs)
            activations = tower.prefix(inputs, blocks)
            got = tower.suffix(
                activations, adapters(tower, 1, blocks=blocks, frozen_weight=1.0).layers
            )
        if isinstance(tower, OpenClipTextTower) and tower.pool_type == "argmax":
            # Padding is cut, sums are shorter: a few units in the last place.
            assert torch.allclose(got[0], expected, atol=2e-6, rtol=2e-6)
        else:
            assert torch.equal(got[0], expected), "bit for bit"


@pytest.mark.parametrize("blocks", [1, 2])
def test_seeds_in_one_batch_equal_seeds_alone(towers, blocks) -> None:
    for tower, inputs in towers:
        with torch.no_grad():
            together = adapters(tower, 3, blocks=blocks, frozen_weight=0.6)
            activations = tower.prefix(inputs, blocks)
            all_seeds = tower.suffix(activations, together.layers, together.seeds)
            assert not torch.allclose(all_seeds[0], all_seeds[1], atol=1e-3)
            for seed in range(3):
                alone = tower.suffix(activations, together.seed(seed).layers)
                assert torch.allclose(all_seeds[seed], alone[0], atol=1e-5)


def test_only_the_token_that_is_read_is_kept_when_that_is_exact() -> None:
    clip = own_clip().eval().requires_grad_(False)
    image, text = image_tower(clip), text_tower(clip)
    assert image.prefix(torch.randn(2, 3, 32, 32), 1).f_in.shape == (2, 1, 48)
    assert image.prefix(torch.randn(2, 3, 32, 32), 2).f_in.shape == (2, 17, 48)
    assert text.prefix(token_ids(), 1).f_in.shape == (4, 1, 40)
    # The longest text ends at position 9: what lies behind it is cut.
    prompts = text.prefix(token_ids(), 2)
    assert prompts.f_in.shape == (4, 10, 40)
    # The two shortest end at 3 and 5.
    assert text.texts(prompts, torch.tensor([2, 0])).f_in.shape == (2, 6, 40)


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_last_hidden_state_pooler"])
def test_a_hugging_face_tower_cuts_padding_behind_the_longest_text(tmp_path, pooler) -> None:
    clip = biomed_clip(tmp_path, pooler).eval().requires_grad_(False)
    tower, ids = text_tower(clip), token_ids()
    # The longest text ends at position 9, of 16.
    prompts = tower.prefix(ids, 3)
    assert prompts.f_in.shape == (4, 10, 32)
    assert tower.texts(prompts, torch.tensor([2, 0])).f_in.shape == (2, 6, 32)
    assert torch.allclose(tower.run(ids), clip.text(ids), atol=1e-5)


def test_a_lean_prefix_is_the_same_prefix(towers) -> None:
    for tower, inputs in towers:
        for blocks in (0, 1, 2):
            whole, lean = (tower.prefix(inputs, blocks, lean) for lean in (False, True))
            assert torch.equal(whole.f_in, lean.f_in)
            assert torch.equal(whole.patches, lean.patches)
            assert torch.allclose(whole.f_frozen, lean.f_frozen, atol=2e-6, rtol=2e-6)


def test_a_lean_prefix_leaves_the_other_tokens_of_the_last_block_out() -> None:
    tower = image_tower(own_clip().eval().requires_grad_(False))
    counts = []
    tower.blocks[-1].mlp.register_forward_pre_hook(lambda _, args: counts.append(args[0].shape[1]))
    for lean in (False, True):
        tower.prefix(torch.randn(2, 3, 32, 32), 1, lean)
    assert counts == [17, 1]


def test_kinds_are_recognised(tmp_path) -> None:
    plain, biomed = own_clip(), biomed_clip(tmp_path, "cls_last_hidden_state_pooler")
    assert isinstance(image_tower(plain), OpenClipImageTower)
    assert isinstance(text_tower(plain), OpenClipTextTower)
    assert isinstance(image_tower(biomed), TimmImageTower)
    assert isinstance(text_tower(biomed), HuggingFaceTextTower)


def test_a_convolutional_tower_is_refused_in_one_sentence() -> None:
    clip = CLIP(EMBED, {"layers": (1, 1, 1, 1), "width": 16, "image_size": 32}, TEXT)
    with pytest.raises(UserError, match="use a vision transformer"):
        image_tower(clip)


def test_threads_that_share_a_tower_get_their_own_images() -> None:
    tower = image_tower(own_clip().eval().requires_grad_(False))
    batches = [torch.randn(3, 3, 32, 32) for _ in range(24)]
    alone = [tower.prefix(batch, 1) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda batch: tower.prefix(batch, 1), batches))
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one.f_in, other.f_in, atol=1e-5)


packs = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no oneDNN")
packs_halves = pytest.mark.skipif(
    not can_pack(torch.bfloat16), reason="this CPU has no bfloat16 in oneDNN"
)


@packs
@pytest.mark.parametrize("activation", ["gelu", "quick"])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_packed_tower_is_the_same_tower(tmp_path, activation, blocks) -> None:
    own = CLIP(EMBED, VIT, TEXT, quick_gelu=activation == "quick")
    for clip in (own, biomed_clip(tmp_path, "cls_last_hidden_state_pooler")):
        tower = image_tower(clip.eval().requires_grad_(False))
        side = 32 if clip is own else 160
        inputs = torch.randn(3, 3, side, side)
        before = tower.run(inputs)
        packed = tower.packed(torch.float32)
        with torch.inference_mode():
            assert torch.allclose(packed.run(inputs), before, atol=1e-5)
            ours, theirs = tower.prefix(inputs, blocks), packed.prefix(inputs, blocks, lean=True)
        assert torch.allclose(theirs.f_frozen, ours.f_frozen, atol=1e-5)
        assert torch.allclose(theirs.f_in, ours.f_in, atol=1e-5)
        assert torch.equal(tower.run(inputs), before)


@packs
def test_packing_copies_no_weight_outside_the_blocks() -> None:
    tower = image_tower(own_clip().eval().requires_grad_(False))
    packed = tower.packed(torch.float32)
    assert packed.visual.conv1.weight is tower.visual.conv1.weight
    assert not any(type(layer) is nn.Linear for layer in packed.blocks.modules())
    assert not any(isinstance(layer, nn.MultiheadAttention) for layer in packed.blocks.modules())


@packs
def test_blocks_that_look_at_the_weights_of_their_layers_can_be_packed() -> None:
    plain = nn.Sequential(EvaAttention(48, num_heads=4, norm_layer=nn.LayerNorm)).eval()
    packed = copy.deepcopy(plain).requires_grad_(False)
    pack(packed, torch.float32)
    tokens = torch.randn(2, 5, 48)
    with torch.inference_mode():
        assert torch.allclose(packed(tokens), plain(tokens), atol=1e-5)


@packs_halves
def test_a_tower_packed_in_half_precision_is_close() -> None:
    tower = image_tower(own_clip().eval().requires_grad_(False))
    inputs = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        half, single = tower.packed(torch.bfloat16).run(inputs), tower.run(inputs)
    assert half.dtype == torch.float32
    assert 0 < (half - single).abs().max() < 0.03 * single.abs().max()
