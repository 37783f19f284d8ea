"""CLIP-based few-shot baselines, on the same supports and with the same budget as SD-MAD.

    scorer = fit("tip_adapter", backbone, catalog, support)
    scores = scorer.scores(pixels)                              # (B, C)

Like the learner of SD-MAD, all use the same frozen backbone, catalog, support, views of its images,
number of steps, images in each step and L_cat. A bias and a temperature from the support turn their
evidence into probabilities (`base`), which is less than SD-MAD does: docs/comparison.md compares. A
fit depends on these and on the baseline's name, shots and seed alone, not on the order of the
images.

[choice] marks in each module what its paper does not say, above all for images with several
categories. Learning rates were chosen for the embedded backbone, on the phantom archive 100, which
is used for nothing else, but for CLIP-LoRA (the rate of its paper) and CLAP (that of CLIP-Adapter).
"""

from collections.abc import Callable

from sdmad.backbones.loading import Backbone
from sdmad.baselines import (
    aa_clip,
    clap,
    clip_adapter,
    clip_lora,
    coop,
    gda,
    linear_probe,
    lp_plus,
    mvfa,
    tip_adapter,
    zero_shot,
)
from sdmad.baselines.base import BaselineConfig, FrozenImages, Scorer, SupportViews, Task
from sdmad.errors import UserError
from sdmad.inputs.catalog import Catalog
from sdmad.method.augment import SupportImages, random_generator

__all__ = [
    "BASELINES",
    "READ_BLOCKS",
    "BaselineConfig",
    "FrozenImages",
    "Scorer",
    "SupportViews",
    "fit",
]

BASELINES: dict[str, Callable[[Task], Scorer]] = {
    "zero_shot_names": zero_shot.fit_names,
    "zero_shot_signs": zero_shot.fit_signs,
    "linear_probe": linear_probe.fit,
    "lp_plus_plus": lp_plus.fit,
    "clap": clap.fit,
    "gda": gda.fit,
    "clip_adapter": clip_adapter.fit,
    "tip_adapter": tip_adapter.fit,
    "tip_adapter_f": tip_adapter.fit_trained,
    "coop_names": coop.fit_names,
    "coop_signs": coop.fit_signs,
    "mvfa": mvfa.fit,
    "aa_clip": aa_clip.fit,
    "clip_lora": clip_lora.fit,
}
READ_BLOCKS = ("mvfa", "aa_clip", "clip_lora")
"""The baselines that need outputs of earlier blocks of the image tower; the others need only
embeddings."""


def fit(
    name: str,
    backbone: Backbone,
    catalog: Catalog,
    support: SupportImages | SupportViews,
    config: BaselineConfig | None = None,
) -> Scorer:
    """Fit a baseline to one support.

    Baselines that are given the same `SupportViews` share the outputs of the frozen backbone.
    Raises `UserError` for a name that is not in `BASELINES`.
    """
    if name not in BASELINES:
        raise UserError(f"there is no baseline {name!r}; choose one of {', '.join(BASELINES)}")
    config = config or BaselineConfig()
    if isinstance(support, SupportImages):
        support = SupportViews.of(backbone, support, config.augment.chosen(catalog.flip))
    generator = random_generator("baseline", name, support.shots, support.seed)
    return BASELINES[name](Task(backbone, catalog, support, config, generator))
