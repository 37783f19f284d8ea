"""MVFA (Huang et al., arXiv 2403.12570): visual adapters at several levels, image-level branch.

After the blocks at 1/4, 1/2, 3/4 and the end of the image tower, tokens x pass an adapter:
u = a(W1 x), x' = (1 - gamma) x + gamma a(W2 u), with a = LeakyReLU and gamma 0.1. u has the width
of the text embeddings. The score of an image at one level is the mean over patches of the
probability that u matches the text of an anomaly rather than that of normal.

[choice] Each category against normal, with the features of its signs, instead of one anomaly. The
loss of the mean over levels instead of the sum of their losses. The segmentation branch is left
out because supports have no masks, the memory of normal patches because it has no categories.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated, train
from sdmad.baselines.residual import adapted_tower
from sdmad.baselines.texts import ClassTexts, text_evidence

LEVELS = 4
RESIDUAL_WEIGHT = 0.1
LEARNING_RATE = 1e-3


class LevelAdapter(nn.Module):
    """The adapter of one level; `features` (1, B, T, E) is u of its latest call."""

    features: torch.Tensor

    def __init__(self, width: int, embedding: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(width, embedding, bias=False)
        self.up = nn.Linear(embedding, width, bias=False)
        for layer in (self.down, self.up):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.features = F.leaky_relu(self.down(tokens))
        adapted = F.leaky_relu(self.up(self.features))
        return (1 - RESIDUAL_WEIGHT) * tokens + RESIDUAL_WEIGHT * adapted


def fit(task: Task) -> Scorer:
    """Fit the adapters of all levels."""
    backbone, tower = task.backbone, task.backbone.image
    features = ClassTexts.signs(task.catalog).frozen_features(backbone)
    depth = len(tower.blocks)
    blocks = sorted({round(depth * k / LEVELS) - 1 for k in range(1, LEVELS + 1)} - {-1})
    adapters = {b: LevelAdapter(tower.width, features.shape[1], task.generator) for b in blocks}
    modules = nn.ModuleList(adapters.values()).to(backbone.device)

    def evidence(images: FrozenImages) -> torch.Tensor:
        adapted_tower(tower, images.after_block(blocks[0]), adapters)
        levels = torch.stack([a.features[0, :, tower.class_tokens :] for a in adapters.values()])
        by_patch = text_evidence(F.normalize(levels, dim=-1), features, backbone.logit_scale)
        return torch.logit(torch.sigmoid(by_patch).mean((0, 2)), eps=1e-6)  # (B, C)

    return calibrated(task, evidence, train(task, evidence, modules.parameters(), LEARNING_RATE))
