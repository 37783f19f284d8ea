"""Zero-shot CLIP (Radford et al., arXiv 2103.00020): no weight is trained.

`fit_names` describes a category by its name, `fit_signs` by the mean embedding of its signs.
[choice] The support sets only the bias of each category and the temperature, as for all baselines,
because raw cosine similarities have no threshold in common.
"""

import torch

from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated, start_bias
from sdmad.baselines.texts import ClassTexts, text_evidence


def fit_names(task: Task) -> Scorer:
    """Zero-shot CLIP with the names of the categories."""
    return _fit(task, ClassTexts.names(task.catalog))


def fit_signs(task: Task) -> Scorer:
    """Zero-shot CLIP with the signs of the categories."""
    return _fit(task, ClassTexts.signs(task.catalog))


def _fit(task: Task, texts: ClassTexts) -> Scorer:
    features = texts.frozen_features(task.backbone)
    scale = task.backbone.logit_scale

    def evidence(images: FrozenImages) -> torch.Tensor:
        return text_evidence(images.embeddings, features, scale)

    return calibrated(task, evidence, start_bias(evidence, task.support))
