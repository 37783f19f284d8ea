"""Linear probe: one logistic regression for each category on the frozen image embedding.

The protocol is CLIP's (arXiv 2103.00020, section 3.2): L-BFGS, with the strength of the L2 penalty
chosen by validation.

[choice] For each category, images with it and images without it have the same total weight. One
penalty for all categories is chosen by cross-validation in the support, with all views of an image
in one fold. With one shot no image can be left out, and the inverse penalty is `DEFAULT_STRENGTH`.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated
from sdmad.method.losses import category_loss

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
DEFAULT_STRENGTH = 10.0
MOST_FOLDS = 5


def fit(task: Task) -> Scorer:
    """Fit a linear probe; a category that every support image shows, or none, has evidence 0."""
    strength = _searched(task)
    images, labels = _arrays(task)
    planes = np.zeros((labels.shape[1], images.shape[1] + 1), np.float32)
    for plane, present in zip(planes, labels.T, strict=True):
        if present.any() and not present.all():
            probe = _probe(strength).fit(images, present)
            plane[:] = np.append(probe.coef_[0], probe.intercept_[0])
    weights = torch.from_numpy(planes).to(task.backbone.device)

    def evidence(images: FrozenImages) -> torch.Tensor:
        return images.embeddings @ weights[:, :-1].T + weights[:, -1]

    return calibrated(task, evidence, torch.zeros(len(weights), device=weights.device))


def _probe(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)


def _arrays(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N x V, E) and bool labels (N x V, C) of the support's views."""
    support = task.support
    return support.views.embeddings.cpu().numpy(), support.labels.bool().cpu().numpy()


def _searched(task: Task) -> float:
    """The inverse strength of the penalty with the lowest loss on the images left out."""
    images, labels = _arrays(task)
    groups = task.support.image.numpy()
    views = task.support.num_views
    rarest = np.minimum(labels.sum(0), (~labels).sum(0)) // views
    columns = np.flatnonzero(rarest >= 2)
    if len(columns) == 0:
        return DEFAULT_STRENGTH
    losses = []
    for strength in STRENGTHS:
        held_out = [
            cross_val_predict(
                _probe(strength),
                images,
                labels[:, c],
                groups=groups,
                cv=StratifiedGroupKFold(min(int(rarest[c]), MOST_FOLDS)),
                method="decision_function",
            )
            for c in columns
        ]
        logits = torch.from_numpy(np.stack(held_out, axis=1)).float()
        losses.append(
            float(category_loss(logits[None], torch.from_numpy(labels[:, columns])[None].float()))
        )
    return STRENGTHS[int(np.argmin(losses))]
