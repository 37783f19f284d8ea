"""CLAP (Silva-Rodriguez et al., arXiv 2312.12730): a linear probe kept near the text features.

logits = tau <v, w_c / |w_c|>. The prototypes w_c start at the text features t_c. The loss has the
penalty mean_c lambda_c |w_c - t_c|^2. lambda_c is the mean probability that zero-shot CLIP gives
class c on the images of class c: a class that the texts know well stays closest to them. lambda
stays constant, and nothing is searched on a validation set.

[choice] Class features are those of the signs. Each category against normal in L_cat instead of a
softmax over all classes. The softmax behind lambda_c leaves out the other categories of the image,
which would lower the probability of c. Adam for the common number of steps instead of 300 epochs of
SGD.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated, train
from sdmad.baselines.texts import ClassTexts, text_evidence

LEARNING_RATE = 1e-3


def fit(task: Task) -> Scorer:
    """Fit the prototypes."""
    support, scale = task.support, task.backbone.logit_scale
    features = ClassTexts.signs(task.catalog).frozen_features(task.backbone)
    logits = scale * support.views.embeddings @ features.T
    weights = constraint_weights(logits, support.classes)
    prototypes = nn.Parameter(features.clone())

    def evidence(images: FrozenImages) -> torch.Tensor:
        return text_evidence(images.embeddings, F.normalize(prototypes, dim=-1), scale)

    def penalty() -> torch.Tensor:
        return constraint(prototypes, features, weights)

    bias = train(task, evidence, [prototypes], LEARNING_RATE, penalty)
    return calibrated(task, evidence, bias)


def constraint_weights(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """lambda (K,) from zero-shot logits and classes (N, K); 0 for a class without images."""
    absent = torch.where(classes.bool(), float("-inf"), logits)
    others = absent.logsumexp(1, keepdim=True)  # of the classes that the image does not have
    own = torch.sigmoid(logits - others) * classes
    return own.sum(0) / classes.sum(0).clamp_min(1)


def constraint(
    prototypes: torch.Tensor, features: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """mean_c lambda_c |w_c - t_c|^2 of prototypes and text features (K, E), weights (K,)."""
    return (weights * (prototypes - features).square().sum(1)).mean()
