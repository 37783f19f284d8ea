"""Tip-Adapter and Tip-Adapter-F (Zhang et al., arXiv 2207.09519): a cache of the support.

logits = tau <v, t_c> + alpha sum_k exp(-beta (1 - <v, f_k>)) y_kc. Each support image k has a key
f_k, the unit mean of its views, and labels y_k. Tip-Adapter trains nothing; Tip-Adapter-F trains
the keys.

[choice] y_k is 1 for each category of the image; normal images have the class normal. The values of
a class are scaled to sum to the shots, so that a category which also occurs in the images of others
does not weigh more. The evidence is that for each category against normal. The paper searches alpha
and beta on a validation set; here they are the pair of a grid with the lowest loss on the support,
where the key of an image is left out of its own score.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.baselines.base import FrozenImages, Scorer, SupportViews, Task, calibrated, train
from sdmad.baselines.texts import ClassTexts, text_evidence
from sdmad.method.calibration import fit_temperature
from sdmad.method.losses import category_loss, midpoint_bias

ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0)
BETAS = (1.0, 3.0, 5.5, 10.0, 20.0)
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Cache:
    """Keys (K, E) and values (K, 1 + C), and the class features (1 + C, E) and tau of the texts."""

    keys: torch.Tensor
    values: torch.Tensor
    features: torch.Tensor
    scale: float
    alpha: float = 1.0
    beta: float = 5.5

    def evidence(self, v: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Evidence (B, C) of unit embeddings (B, E), without the keys marked in `hidden` (B, K)."""
        affinity = torch.exp(-self.beta * (1 - v @ self.keys.T))
        if hidden is not None:
            affinity = affinity.masked_fill(hidden, 0)
        classes = self.alpha * affinity @ self.values
        return text_evidence(v, self.features, self.scale) + classes[:, 1:] - classes[:, :1]


def fit(task: Task) -> Scorer:
    """Fit Tip-Adapter: the keys are those of the support."""
    cache, bias, on_support = _searched(task)
    return calibrated(task, lambda images: cache.evidence(images.embeddings), bias, on_support)


def fit_trained(task: Task) -> Scorer:
    """Fit Tip-Adapter-F: alpha and beta as for Tip-Adapter, trained keys."""
    start, _, _ = _searched(task)
    keys = nn.Parameter(start.keys.clone())
    cache = Cache(keys, start.values, start.features, start.scale, start.alpha, start.beta)

    def evidence(images: FrozenImages) -> torch.Tensor:
        return cache.evidence(images.embeddings)

    return calibrated(task, evidence, train(task, evidence, [keys], LEARNING_RATE))


def _searched(task: Task) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """The cache with the best alpha and beta, its bias, and its evidence on the support."""
    support = task.support
    keys, values = _entries(support)
    features = ClassTexts.signs(task.catalog).frozen_features(task.backbone)
    own = (support.image[:, None] == torch.arange(len(keys))).to(keys.device)
    labels = support.labels[None]
    tried = []
    for alpha, beta in itertools.product(ALPHAS, BETAS):
        cache = Cache(keys, values, features, task.backbone.logit_scale, alpha, beta)
        on_support = cache.evidence(support.views.embeddings, hidden=own)[None]
        bias = midpoint_bias(on_support, labels)
        logits = on_support - bias[:, None]
        loss = float(category_loss(logits / fit_temperature(logits, labels), labels))
        tried.append((loss, cache, bias[0], on_support[0]))
    return min(tried, key=lambda entry: entry[0])[1:]


def _entries(support: SupportViews) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (N, E) and values (N, 1 + C); each column of the values sums to the shots."""
    v = support.views.embeddings.unflatten(0, (-1, support.num_views))
    values = support.classes[support.first]
    values = support.shots * values / values.sum(0).clamp_min(1)
    return F.normalize(v.mean(1), dim=-1), values
