"""The reference of configuration keys, made from the models that validate them.

python -m sdmad.fitting.config_reference > docs/configuration.md
"""

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sdmad.fitting.config import TrainConfig

TITLE = """# Configuration of `jobs/train_seeds.py`

A YAML file. Unknown keys and impossible values are refused before any work starts. `archive`,
`labels`, `shots` and `seeds` can be given on the command line instead. This page is made by
`python -m sdmad.fitting.config_reference`.

| key | default | meaning |
|---|---|---|
"""
MEANINGS = {
    "archive": "prefix of shards and images",
    "labels": "label table, CSV or Parquet",
    "catalog": "sign catalog: a YAML file, or the name of a shipped one (`fundus`, ...)",
    "shots": "labelled images of each category (and of normal) in a support",
    "backbone.model": "`phantom`, an open_clip model, `hf-hub:...` or `local-dir:...`",
    "backbone.pretrained": "tag of open_clip or checkpoint file, for plain names only",
    "learner.steps": "steps of Adam",
    "learner.learning_rate": "at the start; decays to 0 as a cosine",
    "compute.workers": "Ray Train workers; by default one for each GPU, or for two CPUs",
    "compute.cpus_per_worker": "1 by default",
    "compute.gpus_per_worker": "1 where there are GPUs, else 0",
    "learner.augment.gain": "largest change of brightness, as a share",
    "learner.objective.discrepancy_margin": "cosine above which prototypes are too close",
    "learner.selection.mode": "sign selection: `none`, `underfit`, `uncertain`, `both`",
}
for _tower in ("image", "text"):
    MEANINGS[f"learner.adapter.{_tower}.bottleneck"] = "width r of the adapter"
    MEANINGS[f"learner.adapter.{_tower}.activation"] = "`gelu`, `leaky_relu` or `relu`"


def rows(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every key below a model, in the order of its fields."""
    found = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            found += rows(nested, f"{key}.")
        else:
            found.append((key, _default(field), _meaning(key, field)))
    return found


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if value is None:
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(key: str, field: FieldInfo) -> str:
    return field.description or MEANINGS[key]


def page() -> str:
    """The whole page; `KeyError` for a key that nobody has described."""
    lines = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows(TrainConfig)]
    return TITLE + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
