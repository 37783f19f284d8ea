"""What open_clip's registry says of published weights is what is built: every model, every tag."""

import open_clip
import pytest
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transformer import QuickGELU

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import create_named, input_of
from sdmad.backbones.published import check_name, facts_of, facts_of_file, listing, shared_format
from sdmad.backbones.quiet import quiet
from sdmad.errors import UserError

PAIRS = open_clip.list_pretrained()
# The activation of timm's and Hugging Face's towers is in their own configurations.
OWN_TOWERS = [
    model
    for model in sorted({model for model, _ in PAIRS})
    if "timm_model_name" not in open_clip.get_model_config(model)["vision_cfg"]
    and "hf_model_name" not in open_clip.get_model_config(model)["text_cfg"]
]


@pytest.mark.parametrize(("model", "tag"), PAIRS)
def test_the_tag_decides(model, tag) -> None:
    published = get_pretrained_cfg(model, tag)
    facts = facts_of(model, tag)
    if "quick_gelu" in published:
        assert facts.quick_gelu == published["quick_gelu"]
    else:
        # Weights like roberta-ViT-B-32's, whose tag says nothing: as open_clip builds it.
        assert facts.quick_gelu == open_clip.get_model_config(model).get("quick_gelu", False)
    for key in ("mean", "std", "interpolation", "resize_mode"):
        assert facts.preprocess[key] == published[key], key


@pytest.mark.parametrize("model", OWN_TOWERS)
def test_models_are_built_as_their_tags_say(model) -> None:
    """On the meta device, against open_clip's own construction with the tag's activation."""
    for quick in (False, True):
        tags = [t for m, t in PAIRS if m == model and facts_of(m, t).quick_gelu == quick]
        if not tags:
            continue
        facts = facts_of(model, tags[0])
        with quiet(), torch.device("meta"):
            clip = create_named(model, facts, "meta")
            theirs, _, transform = open_clip.create_model_and_transforms(
                model, device="meta", force_quick_gelu=quick, **force(model, tags[0])
            )
        assert activations(clip) == activations(theirs)
        assert any(isinstance(m, QuickGELU) for m in clip.modules()) == quick
        spec = input_of(clip)
        normalize = transform.transforms[-1]
        assert spec.mean == tuple(normalize.mean)
        assert spec.std == tuple(normalize.std)
        assert spec.size == pair(theirs.visual.image_size)


def force(model: str, tag: str) -> dict[str, object]:
    """What `create_model_and_transforms` takes from a tag when it loads its weights."""
    published = get_pretrained_cfg(model, tag)
    return {
        "image_mean": published["mean"],
        "image_std": published["std"],
        "image_interpolation": published["interpolation"],
        "image_resize_mode": published["resize_mode"],
    }


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def activations(clip: torch.nn.Module) -> list[str]:
    kinds = (QuickGELU, torch.nn.GELU)
    return [type(m).__name__ for m in clip.modules() if isinstance(m, kinds)]


def test_a_file_has_the_format_that_all_published_weights_share() -> None:
    assert shared_format("ViT-SO400M-14-SigLIP-384")["mean"] == (0.5, 0.5, 0.5)
    assert shared_format("ViT-SO400M-14-SigLIP-384")["resize_mode"] == "squash"
    # ViT-L-14's weights differ among themselves.
    assert shared_format("ViT-L-14")["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_what_a_file_does_not_say_can_be_configured() -> None:
    config = BackboneConfig(
        model="ViT-B-32",
        pretrained="file.pt",
        activation="quick_gelu",
        preprocess={"mean": (0.5, 0.5, 0.5), "resize_mode": "squash"},
    )
    facts = facts_of_file(config, openai=False)
    assert facts.quick_gelu
    assert facts.preprocess["mean"] == (0.5, 0.5, 0.5)
    assert facts.preprocess["std"] == open_clip.OPENAI_DATASET_STD
    assert facts.preprocess["resize_mode"] == "squash"


def test_a_file_of_openai_has_quick_gelu_and_nothing_else() -> None:
    config = BackboneConfig(model="ViT-B-32", pretrained="file.pt")
    assert facts_of_file(config, openai=True).quick_gelu
    assert not facts_of_file(config, openai=False).quick_gelu
    wrong = config.model_copy(update={"activation": "gelu"})
    with pytest.raises(UserError, match="OpenAI's, trained with quick_gelu"):
        facts_of_file(wrong, openai=True)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model": "ViT-B-32"}, "tags are openai, laion400m_e31, laion400m_e32 and 19 more, which"),
        (
            {"model": "ViT-B-32", "pretrained": "datacomp_xl"},
            "no such file, and open_clip's tags are datacomp_xl_s13b_b90k, ",
        ),
        ({"model": "ViT-L-14-336"}, "open_clip's tags are openai"),
        ({"model": "vit-b32"}, "try ViT-B-32 or "),
        ({"model": "something"}, "try ViT-B-32 or ViT-L-14-336, or hf-hub:"),
    ],
)
def test_a_wrong_name_is_answered_by_the_few_nearest_ones(config, told) -> None:
    with pytest.raises(UserError) as error:
        check_name(BackboneConfig(**config))
    assert told in str(error.value)
    assert len(str(error.value)) < 240


def test_all_tags_are_listed() -> None:
    lines = dict(line.split(": ") for line in listing())
    assert "datacomp_xl_s13b_b90k" in lines["ViT-B-32"].split(", ")
    assert lines["ViT-L-14-336"] == "openai"
    assert "RN50" not in lines
