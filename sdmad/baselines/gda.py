"""GDA (Wang et al., arXiv 2402.04087): Gaussian discriminant analysis beside zero-shot CLIP.

logits = tau <v, t_c> + alpha (<v, w_c> + b_c) with w_c = P mu_c and b_c = -mu_c^T P mu_c / 2. mu_c
is the mean of the unit embeddings of class c. P estimates the precision matrix that all classes
share, P = d ((N - 1) S + tr(S) I)^-1, with S the covariance of N embeddings of width d around the
mean of their class. All classes have the same prior probability. Nothing is trained.

[choice] An image with several categories counts in the mean of each and adds one deviation to S for
each; normal images have the class normal. All views are samples, as the random crops of the
authors' code. The evidence is that for each category against normal. The paper searches alpha on a
validation set; here it is the one of the paper's grid with the lowest loss on the support, where
all views of an image are left out of means and covariance before the image is scored. A class
without another image has no Gaussian evidence then. If no category can be searched so (one shot),
both parts get the same standard deviation on the support.
"""

from dataclasses import dataclass

import torch

from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated
from sdmad.baselines.texts import ClassTexts, text_evidence
from sdmad.method.calibration import fit_temperature
from sdmad.method.losses import category_loss, midpoint_bias

ALPHAS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Moments:
    """Sums over N embeddings, once for each class of an embedding, in double precision.

    `counts` (K,) and `sums` (K, E) are those of each class, `squares` (E, E) of all v v^T.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    squares: torch.Tensor

    @staticmethod
    def of(v: torch.Tensor, classes: torch.Tensor) -> "Moments":
        """The moments of embeddings (N, E) with classes (N, K) in {0, 1}."""
        v, classes = v.double(), classes.double()
        return Moments(classes.sum(0), classes.T @ v, (v * classes.sum(1, keepdim=True)).T @ v)

    def without(self, other: "Moments") -> "Moments":
        """The moments of the embeddings that are not in `other`."""
        return Moments(
            self.counts - other.counts, self.sums - other.sums, self.squares - other.squares
        )

    @property
    def means(self) -> torch.Tensor:
        """The mean (K, E) of each class; 0 for a class without embeddings."""
        return self.sums / self.counts.clamp_min(1)[:, None]

    def precision(self) -> torch.Tensor:
        """P (E, E), the estimate of the inverse of the covariance that the classes share."""
        width = len(self.squares)
        scatter = self.squares - self.means.T @ self.sums  # (N - 1) S
        trace = scatter.trace() / (self.counts.sum() - 1).clamp_min(1)
        # Without any deviation (one view, one shot) classes differ by the distance to their mean.
        ridge = trace.clamp_min(1e-9) * torch.eye(width, dtype=scatter.dtype, device=scatter.device)
        return width * torch.cholesky_inverse(torch.linalg.cholesky(scatter + ridge))

    def planes(self) -> torch.Tensor:
        """Planes (K - 1, E + 1) of each class against the first, the constant last.

        A plane is 0 where one of the two classes has no embedding.
        """
        weights = self.means @ self.precision()
        constants = -(weights * self.means).sum(1, keepdim=True) / 2
        planes = torch.cat([weights, constants], dim=1)
        known = (self.counts[1:] > 0.5) & (self.counts[0] > 0.5)
        return (planes[1:] - planes[:1]) * known[:, None]


def fit(task: Task) -> Scorer:
    """Fit means and covariance, and alpha."""
    support = task.support
    v, labels = support.views.embeddings, support.labels
    features = ClassTexts.signs(task.catalog).frozen_features(task.backbone)
    whole = Moments.of(v, support.classes)
    gaussian, searched = _left_out(whole, v, support.classes, support.num_views)
    zero_shot = text_evidence(v, features, task.backbone.logit_scale)
    alpha = _searched(zero_shot, gaussian, labels, searched)
    planes = alpha * whole.planes().to(v)

    def evidence(images: FrozenImages) -> torch.Tensor:
        v = images.embeddings
        by_text = text_evidence(v, features, task.backbone.logit_scale)
        return by_text + v @ planes[:, :-1].T + planes[:, -1]

    on_support = zero_shot + alpha * gaussian
    bias = midpoint_bias(on_support[None], labels[None])[0]
    return calibrated(task, evidence, bias, on_support)


def _left_out(
    whole: Moments, v: torch.Tensor, classes: torch.Tensor, views: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian evidence (N x V, C) for each image by the others, and which categories (C,) have
    it for all images."""
    rows = range(0, len(v), views)
    parts = []
    for start in rows:
        own = slice(start, start + views)
        planes = whole.without(Moments.of(v[own], classes[own])).planes().to(v)
        parts.append(v[own] @ planes[:, :-1].T + planes[:, -1])
    several = whole.counts > views + 0.5
    return torch.cat(parts), several[1:] & several[0]


def _searched(
    zero_shot: torch.Tensor, gaussian: torch.Tensor, labels: torch.Tensor, searched: torch.Tensor
) -> float:
    """The alpha of the grid with the lowest loss for the categories `searched`."""
    if not searched.any():
        return float(zero_shot.std() / gaussian.std().clamp_min(1e-6))
    wanted = labels[None, :, searched]
    losses = []
    for alpha in ALPHAS:
        logits = (zero_shot + alpha * gaussian)[None, :, searched]
        logits = logits - midpoint_bias(logits, wanted)[:, None]
        losses.append(float(category_loss(logits / fit_temperature(logits, wanted), wanted)))
    return ALPHAS[losses.index(min(losses))]
