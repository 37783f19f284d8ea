"""The reference of configuration keys, made from the models that validate them.

python -m sdmad.fitting.config_reference > docs/configuration.md
"""

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sdmad.fitting.config import TrainConfig

TITLE = """# Configuration of a training run

For everyone who fits a detector: every key of the YAML file that `sdmad train --config FILE` (on a
cluster `jobs/train_seeds.py`) reads, with its default and meaning.

Only `archive`, `labels` and `catalog` are required:

    archive: s3://hospital/chest
    labels: s3://hospital/chest/labels.csv
    catalog: chest_xray
    backbone: {model: ViT-L-14-336, pretrained: openai}
    learner: {augment: {shift: 0.03}}
    shots: [4]
    seeds: "0:16"

- Dots in the table stand for nesting: `learner.augment.shift` is `shift` below `augment` below
  `learner`, as above.
- Set the backbone, shots and seeds for your data. The other defaults were chosen on
  phantoms, fundus photographs and breast ultrasound ([results.md](results.md)).
- Flips are off unless the catalog has `flip: true`, and in all of those results. Leave them off
  where sides matter: in a chest X-ray the heart is on the left, on a CT the liver is on the right.
- `archive`, `labels`, `shots` and `seeds` can also be given on the command line; they replace
  those of the file.
- An unknown key or an impossible value stops the job with one sentence before any work starts.
- [method.md](method.md) explains the words and the formulas behind `learner`.

`python -m sdmad.fitting.config_reference` writes this page from the code.

| key | default | meaning |
|---|---|---|
"""
MEANINGS = {
    "archive": "folder or `s3://` prefix of the images (shards or single files)",
    "labels": "label table, CSV or Parquet; README.md lists its columns",
    "catalog": "sign catalog: a YAML file, or a [shipped one](signs.md#shipped-catalogs) by name",
    "shots": "images of each category, and of normal, in a support: numbers, `all`, or numbers by "
    "category such as `{malignant: 40, default: 16}`; one detector for each value",
    "backbone.model": "`phantom` (embedded), an open_clip model, `hf-hub:organisation/name` or a "
    "folder: a path or an `s3://` URI ([backbones.md](backbones.md))",
    "backbone.pretrained": "weights of an open_clip model: one of its tags (`openai`) or a "
    "checkpoint file; not for the other kinds",
    "learner.steps": "training steps (Adam)",
    "learner.learning_rate": "learning rate at the first step; it falls to 0 along a cosine",
    "compute.workers": "Ray Train workers; default: one per GPU, or one per two CPUs without GPUs",
    "compute.cpus_per_worker": "CPUs of each worker; default 1",
    "compute.gpus_per_worker": "GPUs of each worker; default 1 where there are GPUs, else 0",
    "learner.augment.gain": "largest change of brightness in a view: 0.15 is up to ±15 %",
    "learner.objective.discrepancy_margin": "cosine similarity above which the discrepancy loss "
    "penalises two categories",
    "learner.selection.mode": "sign selection: `none`, `underfit` (weights from the support), "
    "`uncertain` (fading in each image) or `both`",
}
for _tower in ("image", "text"):
    MEANINGS[f"learner.adapter.{_tower}.bottleneck"] = "hidden width r of an adapter"
    MEANINGS[f"learner.adapter.{_tower}.activation"] = (
        "activation of an adapter: `gelu`, `leaky_relu` or `relu`"
    )


def rows(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every key below a model, in the order of its fields."""
    found = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        nested = _model_in(field.annotation)
        if nested:
            found += rows(nested, f"{key}.")
        else:
            found.append((key, _default(field), _meaning(key, field)))
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a key holds, also where it may be left out (`Model | None`)."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if value is None:
        return "-"
    value = list(value) if isinstance(value, tuple) else value
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(key: str, field: FieldInfo) -> str:
    return field.description or MEANINGS[key]


def page() -> str:
    """The whole page; `KeyError` for a key that nobody has described."""
    lines = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows(TrainConfig)]
    return TITLE + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
