"""CLIP-based few-shot baselines, on the same footing as SD-MAD.

    scorer = fit("tip_adapter", backbone, catalog, support)
    scores = scorer.scores(pixels)                              # (B, C)

All get the same frozen backbone, catalog, support and views of its images as the learner, the same
number of steps and images in each, the same loss, and the same way from evidence to probabilities.
A fit is a function of these, the baseline's name, shots and seed alone; the order of the support's
images does not matter. Where a paper leaves multi-label images open, the module says what was
chosen. Learning rates suit the embedded backbone: they were compared on the phantom archive 100,
which serves no other purpose.
"""

from collections.abc import Callable

from sdmad.backbones.loading import Backbone
from sdmad.baselines import aa_clip, clip_adapter, coop, linear_probe, mvfa, tip_adapter, zero_shot
from sdmad.baselines.base import BaselineConfig, FrozenImages, Scorer, SupportViews, Task
from sdmad.errors import UserError
from sdmad.inputs.catalog import Catalog
from sdmad.method.augment import SupportImages, random_generator

__all__ = ["BASELINES", "BaselineConfig", "FrozenImages", "Scorer", "SupportViews", "fit"]

BASELINES: dict[str, Callable[[Task], Scorer]] = {
    "zero_shot_names": zero_shot.fit_names,
    "zero_shot_signs": zero_shot.fit_signs,
    "linear_probe": linear_probe.fit,
    "clip_adapter": clip_adapter.fit,
    "tip_adapter": tip_adapter.fit,
    "tip_adapter_f": tip_adapter.fit_trained,
    "coop_names": coop.fit_names,
    "coop_signs": coop.fit_signs,
    "mvfa": mvfa.fit,
    "aa_clip": aa_clip.fit,
}


def fit(
    name: str,
    backbone: Backbone,
    catalog: Catalog,
    support: SupportImages | SupportViews,
    config: BaselineConfig | None = None,
) -> Scorer:
    """Fit a baseline to one support.

    Several baselines share what the frozen backbone makes of a support when they are given the
    same `SupportViews`. Raises `UserError` for a name that is not in `BASELINES`.
    """
    if name not in BASELINES:
        raise UserError(f"there is no baseline {name!r}; there are {', '.join(BASELINES)}")
    config = config or BaselineConfig()
    if isinstance(support, SupportImages):
        support = SupportViews.of(backbone, support, config.augment)
    generator = random_generator("baseline", name, support.shots, support.seed)
    return BASELINES[name](Task(backbone, catalog, support, config, generator))
