"""CLIP-Adapter (Gao et al., arXiv 2110.04544): a bottleneck after the image encoder.

v' = alpha A(v) + (1 - alpha) v with A(v) = ReLU(W2 ReLU(W1 v)), alpha 0.2, no biases, and a hidden
width of a quarter of v's. This is the visual adapter alone, which the paper recommends and its code
uses.

[choice] Class features are those of the signs, as for all baselines that do not learn their texts.
Each category against normal instead of a softmax over all classes. A reads unit embeddings instead
of raw ones; as it has no bias, only the length of v' differs.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated, train
from sdmad.baselines.texts import ClassTexts, text_evidence

RATIO = 0.2
REDUCTION = 4
LEARNING_RATE = 1e-3


def fit(task: Task) -> Scorer:
    """Fit the visual adapter."""
    features = ClassTexts.signs(task.catalog).frozen_features(task.backbone)
    width = features.shape[1]
    adapter = nn.Sequential(
        nn.Linear(width, width // REDUCTION, bias=False),
        nn.ReLU(),
        nn.Linear(width // REDUCTION, width, bias=False),
        nn.ReLU(),
    )
    for weight in adapter.parameters():
        nn.init.kaiming_uniform_(weight, a=5**0.5, generator=task.generator)
    adapter.to(task.backbone.device)

    def evidence(images: FrozenImages) -> torch.Tensor:
        v = images.embeddings
        v = F.normalize(RATIO * adapter(v) + (1 - RATIO) * v, dim=-1)
        return text_evidence(v, features, task.backbone.logit_scale)

    return calibrated(task, evidence, train(task, evidence, adapter.parameters(), LEARNING_RATE))
