"""Which family of towers a model's encoders belong to."""

from typing import Any

from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

from sdmad.backbones.towers.base import ImageTower, TextTower
from sdmad.backbones.towers.open_clip import OpenClipImageTower, OpenClipTextTower
from sdmad.backbones.towers.timm import timm_tower
from sdmad.errors import UserError

USE_A_TRANSFORMER = "use a vision transformer (ViT-B-32, ViT-L-14-336, a timm ViT)"


def check_towers(clip: Any) -> None:
    """Raise `UserError` for an open_clip model with a tower that cannot be adapted."""
    image_tower(clip)
    text_tower(clip)


def image_tower(clip: Any) -> ImageTower:
    """The image tower of an open_clip model; `UserError` for one without transformer blocks."""
    visual = clip.visual
    if isinstance(visual, VisionTransformer) and visual.transformer.batch_first:
        return OpenClipImageTower(visual)
    if isinstance(visual, TimmModel) and (tower := timm_tower(visual)) is not None:
        return tower
    name = type(getattr(visual, "trunk", visual)).__name__
    raise UserError(
        f"the backbone's image tower ({name}) does not end in a list of transformer blocks "
        f"to adapt; {USE_A_TRANSFORMER}"
    )


def text_tower(clip: Any) -> TextTower:
    """The text tower of an open_clip model; `UserError` for one without transformer blocks."""
    text = getattr(clip, "text", None)
    if hasattr(getattr(text or clip, "transformer", None), "resblocks"):
        return OpenClipTextTower(clip)
    # Only a model with such a tower needs the transformers library.
    from sdmad.backbones.towers.hugging_face import HuggingFaceTextTower, layers_of

    if isinstance(text, HFTextEncoder) and layers_of(text.transformer) is not None:
        return HuggingFaceTextTower(text)
    raise UserError(
        f"the backbone's text tower ({type(text).__name__}) has no list of transformer blocks to "
        "adapt; use an open_clip text transformer, or a BERT, RoBERTa, mT5 or NLLB encoder"
    )
