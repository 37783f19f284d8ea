"""LP++ (Huang et al., arXiv 2404.02285): a linear probe with multipliers of the text features.

logits = <v, w_c + alpha_c t_c> + b_c. Visual prototypes w_c and multipliers alpha_c are two blocks.
Both descend the loss of the whole support with the inverse of a Lipschitz constant of its gradient
as step size, so no rate is searched: w and b in every step, with momentum 0.9, alpha in every
tenth. w_c starts at the sum over the shots of class c, alpha_c at 250 times the mean similarity of
a class's images and its text.

[choice] L_cat of each category against normal instead of a softmax over all classes, with a
Lipschitz constant of its own (`steps`). An image with several categories is in the start of each;
its views together weigh as one shot. 250 belongs to CLIP's tau of 100; here it is 2.5 tau. alpha
starts at 0 where that similarity is negative. The constant of a category starts at the midpoint of
the evidence, as for all baselines. The common number of steps instead of 300, and the last step
instead of the best one on a validation set.
"""

from dataclasses import dataclass

import torch

from sdmad.baselines.base import FrozenImages, Scorer, SupportViews, Task, calibrated
from sdmad.baselines.texts import ClassTexts
from sdmad.method.losses import category_loss, midpoint_bias

ALPHA_PER_TAU = 2.5
MOMENTUM = 0.9
ALPHA_EVERY = 10


@dataclass(frozen=True)
class Classifier:
    """Visual planes (1 + C, E + 1), the constant last; multipliers (1 + C,) of text features."""

    planes: torch.Tensor
    alpha: torch.Tensor
    features: torch.Tensor

    def evidence(self, v: torch.Tensor) -> torch.Tensor:
        """Evidence (B, C) of unit embeddings (B, E) for each category against normal."""
        logits = v @ (self.planes[:, :-1] + self.alpha[:, None] * self.features).T
        logits = logits + self.planes[:, -1]
        return logits[:, 1:] - logits[:, :1]


def fit(task: Task) -> Scorer:
    """Fit prototypes and multipliers on all views of the support."""
    v, labels = task.support.views.embeddings, task.support.labels
    classifier = start(task)
    planes = classifier.planes.requires_grad_()
    alpha = classifier.alpha.requires_grad_()
    step, alpha_step = steps(v, labels, classifier.features)
    optimizer = torch.optim.SGD([planes], lr=step, momentum=MOMENTUM)
    for number in range(1, task.config.steps + 1):
        loss = category_loss(classifier.evidence(v)[None], labels[None])[0]
        gradients = torch.autograd.grad(loss, [planes, alpha])
        planes.grad = gradients[0]
        optimizer.step()
        if number % ALPHA_EVERY == 0:
            with torch.no_grad():
                alpha -= alpha_step * gradients[1]
    fitted = Classifier(planes.detach(), alpha.detach(), classifier.features)

    def evidence(images: FrozenImages) -> torch.Tensor:
        return fitted.evidence(images.embeddings)

    return calibrated(task, evidence, torch.zeros(labels.shape[1], device=v.device))


def start(task: Task) -> Classifier:
    """The classifier before the first step."""
    support: SupportViews = task.support
    v, classes = support.views.embeddings, support.classes
    features = ClassTexts.signs(task.catalog).frozen_features(task.backbone)
    similarity = (classes * (v @ features.T)).sum() / classes.sum()
    alpha = (ALPHA_PER_TAU * task.backbone.logit_scale * similarity).clamp_min(0)
    prototypes = classes.T @ v / support.num_views
    planes = torch.cat([prototypes, torch.zeros_like(prototypes[:, :1])], dim=1)
    classifier = Classifier(planes, alpha.repeat(len(planes)), features)
    bias = midpoint_bias(classifier.evidence(v)[None], support.labels[None])[0]
    planes[1:, -1] = -bias
    return classifier


def steps(v: torch.Tensor, labels: torch.Tensor, features: torch.Tensor) -> tuple[float, float]:
    """Step sizes of the planes and of alpha: inverse Lipschitz constants of the gradient of L_cat.

    L_cat is the mean over c of sum_i omega_ic l(e_ic) with l'' at most 1/4, and e_ic is linear in
    the parameters. For alpha that bounds the curvature by a matrix (1 + C, 1 + C). e_c depends on
    the difference of two planes, so the bound for these is (1 + C) / (4 C) times the largest
    eigenvalue over c of sum_i omega_ic x_i x_i^T with x_i = (v_i, 1).
    """
    positive, negative = labels, 1 - labels
    omega = positive / positive.sum(0).clamp_min(1) + negative / negative.sum(0).clamp_min(1)
    omega = omega / 2  # (N, C)
    categories = labels.shape[1]
    x = torch.cat([v, torch.ones_like(v[:, :1])], dim=1)
    largest = max(float(torch.linalg.eigvalsh(x.T @ (w[:, None] * x)).amax()) for w in omega.T)
    by_text = v @ features.T
    curvature = torch.zeros(1 + categories, 1 + categories, device=v.device)
    for c in range(categories):
        slope = torch.zeros_like(by_text)
        slope[:, 1 + c], slope[:, 0] = by_text[:, 1 + c], -by_text[:, 0]
        curvature += slope.T @ (omega[:, c, None] * slope) / (4 * categories)
    planes_bound = (1 + categories) / (4 * categories) * largest
    return 1 / planes_bound, 1 / float(torch.linalg.eigvalsh(curvature).amax())
