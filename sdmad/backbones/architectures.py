"""Which architectures of open_clip cannot be adapted, and why.

    python -m sdmad.backbones.architectures      # the table in docs/backbones.md

Nothing is built or downloaded for the answer: open_clip's configuration says which image tower an
architecture has. All text towers of open_clip's registry are transformers.
"""

from typing import Any

import open_clip
import timm

from sdmad.backbones.towers.kinds import USE_A_TRANSFORMER
from sdmad.errors import UserError

BEGIN, END = "<!-- refused architectures: begin -->", "<!-- refused architectures: end -->"
TRANSFORMERS = frozenset(
    {
        "eva",
        "fastvit",
        "swin_transformer",
        "vision_transformer",
        "vision_transformer_hybrid",
        "vision_transformer_relpos",
        "vitamin",
    }
)
"""Modules of timm whose architectures in open_clip's registry end in attention blocks."""


def refusal(name: str) -> str | None:
    """Why open_clip's architecture `name` cannot be adapted; None when it can, or is not known."""
    config = open_clip.get_model_config(name)
    return None if config is None else refusal_of(config)


def refusal_of(config: dict[str, Any]) -> str | None:
    """The same for a configuration of open_clip's."""
    vision = config["vision_cfg"]
    if isinstance(vision.get("layers"), list | tuple):
        return "its image tower is a ResNet, which ends in convolutions"
    timm_name = vision.get("timm_model_name")
    if timm_name is None or not timm.is_model(timm_name):
        return None
    package, _, module = timm.model_entrypoint(timm_name).__module__.rpartition(".")
    if package != "timm.models" or module in TRANSFORMERS:
        return None
    return f"its image tower is timm's {module}, which ends in convolutions"


def check_architecture(name: str) -> None:
    """Raise `UserError` for an architecture of open_clip that cannot be adapted; loads nothing."""
    config = open_clip.get_model_config(name)
    if config is not None:
        check_config(config, name)


def check_config(config: dict[str, Any], shown: str) -> None:
    """Raise `UserError` for a configuration of open_clip's whose model cannot be adapted.

    `shown` is the name of the model in the message.
    """
    reason = refusal_of(config)
    if reason is not None:
        raise UserError(f"the backbone {shown} cannot be adapted: {reason}; {USE_A_TRANSFORMER}")


def refused() -> dict[str, list[str]]:
    """The architectures of open_clip's registry that cannot be adapted, by reason."""
    found: dict[str, list[str]] = {}
    for name in open_clip.list_models():
        reason = refusal(name)
        if reason is not None:
            found.setdefault(reason, []).append(name)
    return found


def table() -> str:
    """All refused architectures as a table in Markdown."""
    total, rows = len(open_clip.list_models()), refused()
    count = sum(map(len, rows.values()))
    lines = [
        f"open_clip {open_clip.__version__} has {total} architectures. {total - count} can be "
        f"adapted, {count} cannot:",
        "",
        "| architectures | why not |",
        "|---|---|",
    ]
    for reason, names in rows.items():
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
