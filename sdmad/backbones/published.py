"""What open_clip knows of a named model and its published weights, before anything is loaded.

    facts = facts_of("ViT-L-14-336", "openai")
    facts.quick_gelu, facts.preprocess["mean"]

`python -m sdmad.backbones.published` lists the tags of every model that can be adapted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg

from sdmad import storage
from sdmad.backbones.architectures import check_architecture, refusal
from sdmad.backbones.config import BackboneConfig
from sdmad.errors import UserError

LISTED = "python -m sdmad.backbones.published"
# Names in a message, of many.
FEW = 3
FORMAT_KEYS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class Facts:
    """Activation and input format of one set of weights; `tag` is empty for a checkpoint file."""

    tag: str
    quick_gelu: bool
    preprocess: dict[str, Any]


def facts_of(model: str, tag: str) -> Facts:
    """What the published weights `tag` of a model were trained with.

    The tag decides; where it says nothing of the activation, the model's configuration does.
    """
    published = get_pretrained_cfg(model, tag)
    own = (open_clip.get_model_config(model) or {}).get("quick_gelu", False)
    return Facts(tag, bool(published.get("quick_gelu", own)), _format(published))


def facts_of_file(config: BackboneConfig, openai: bool) -> Facts:
    """What a checkpoint file is taken to have been trained with: what the configuration says, else
    what its format says, else what all published weights of the model share.

    `openai` says that the file is an archive of OpenAI's, whose models have QuickGELU. Raises
    `UserError` when the configuration contradicts it.
    """
    if openai and config.activation == "gelu":
        raise UserError(
            f"the backbone {config} is a checkpoint of OpenAI's, trained with quick_gelu, and the "
            "configuration says backbone.activation: gelu; remove that key"
        )
    own = (open_clip.get_model_config(config.model) or {}).get("quick_gelu", False)
    quick = config.activation == "quick_gelu" if config.activation else openai or own
    given = config.preprocess.model_dump(exclude_none=True)
    return Facts("", bool(quick), shared_format(config.model) | given)


def shared_format(model: str) -> dict[str, Any]:
    """The input format that all published weights of a model share, else open_clip's default."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    formats = [_format(get_pretrained_cfg(model, tag)) for tag in tags]
    default = _format({})
    return formats[0] if formats and all(f == formats[0] for f in formats) else default


def _format(published: dict[str, Any]) -> dict[str, Any]:
    default = PreprocessCfg()
    return {key: published.get(key) or getattr(default, key) for key in FORMAT_KEYS}


def check_name(config: BackboneConfig) -> None:
    """Raise `UserError` when open_clip has no such model or weights, or it cannot be adapted; loads
    nothing."""
    model, pretrained = config.model, config.pretrained
    if "/" in model:
        raise UserError(f"there is no backbone folder {model}")
    if model not in open_clip.list_models():
        near = _nearest(model, open_clip.list_models()) or ["ViT-B-32", "ViT-L-14-336"]
        raise UserError(
            f"open_clip has no model {model!r}; try {' or '.join(near)}, "
            "or hf-hub:organisation/name, or a folder"
        )
    check_architecture(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise UserError(
            f"the backbone {model} needs weights: set 'pretrained' to a tag or a file; "
            f"{_tags_in_words(tags)}"
        )
    if pretrained in tags:
        if config.activation or config.preprocess.model_dump(exclude_none=True):
            raise UserError(
                f"the tag {pretrained} says which activation and input its weights have; remove "
                "'activation' and 'preprocess', which are for checkpoint files"
            )
    elif not _is_file(pretrained):
        raise UserError(
            f"there are no weights {pretrained!r} for {model}: "
            + (
                "it is a folder; give it as the model, without 'pretrained'"
                if not storage.is_s3(pretrained) and Path(pretrained).is_dir()
                else f"no such file, and {_tags_in_words(tags, pretrained)}"
            )
        )


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """The few of the `known` names most like `name`, whatever their case; maybe none."""
    folded = {other.casefold(): other for other in known}
    return [folded[near] for near in get_close_matches(name.casefold(), folded, n=FEW)]


def _tags_in_words(tags: list[str], wanted: str = "") -> str:
    """The tags of a model; of many, those most like the `wanted` one, and how to list all."""
    if not tags:
        return "open_clip has no tags for it"
    some = list(dict.fromkeys([*_nearest(wanted, tags), *tags]))[:FEW]
    more = len(tags) - len(some)
    rest = f" and {more} more, which `{LISTED}` lists" if more else ""
    return f"open_clip's tags are {', '.join(some)}{rest}"


def listing() -> Iterator[str]:
    """A line for each model that can be adapted and has published weights: its name and tags."""
    for model in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(model)
        if tags and refusal(model) is None:
            yield f"{model}: {', '.join(tags)}"


def _is_file(place: str) -> bool:
    return storage.exists(place) if storage.is_s3(place) else Path(place).is_file()


if __name__ == "__main__":
    print("\n".join(listing()))
