"""The architecture `sdmad_lite_vit`: shape, names of weights, and what its stem computes."""

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F

import sdmad.backbones.lite  # noqa: F401 - registers the architecture
from sdmad.backbones.towers.kinds import image_tower


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("sdmad_lite_vit", num_classes=0).eval()


def test_weights_have_the_names_and_shapes_of_published_folders(model) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["patch_embed.net.conv_stem.weight"] == (32, 3, 3, 3)
    assert shapes["patch_embed.norm.weight"] == (544,)
    assert shapes["patch_embed.proj.weight"] == (256, 544)
    assert shapes["pos_embed"] == (1, 64, 256)
    assert shapes["blocks.5.mlp.fc1.weight"] == (1024, 256)
    absent = ("patch_embed.net.conv_head", "patch_embed.net.bn2", "cls_token")
    assert not any(name.startswith(absent) for name in shapes)


def test_tokens_join_the_last_stage_with_pooled_features_of_the_stage_before(model) -> None:
    """Against timm's own feature extractor of the same network."""
    whole = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(3, 4))
    theirs = whole.eval()
    stem = model.patch_embed
    known = stem.net.state_dict()
    theirs.load_state_dict({k: v for k, v in known.items() if k in theirs.state_dict()})
    images = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        middle, last = theirs(images)  # (2, 112, 16, 16), (2, 320, 8, 8)
        joined = torch.cat([last, F.avg_pool2d(middle, 2), F.max_pool2d(middle, 2)], 1)
        expected = stem.proj(stem.norm(joined.permute(0, 2, 3, 1).reshape(2, 64, 544)))
        assert torch.allclose(stem(images), expected, atol=1e-5)


def test_it_is_an_image_tower_of_open_clip() -> None:
    clip = open_clip.model.CustomTextCLIP(
        embed_dim=16,
        vision_cfg={
            "image_size": 256,
            "timm_model_name": "sdmad_lite_vit",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        text_cfg={"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    tower = image_tower(clip)
    assert (len(tower.blocks), tower.width) == (6, 256)
    images = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        activations = tower.prefix(images, 1)
        assert torch.allclose(tower.frozen(activations), clip.encode_image(images), atol=1e-5)
    parameters = sum(p.numel() for p in clip.visual.parameters())
    assert 7_500_000 < parameters < 8_500_000


def test_it_has_no_weights_of_its_own() -> None:
    with pytest.raises(ValueError, match="load a folder"):
        timm.create_model("sdmad_lite_vit", pretrained=True)
