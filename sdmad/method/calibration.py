"""Probabilities and undecided images, from the support alone [choice].

Shapes: S seeds, B images, N support images, C categories.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdmad.method.losses import category_loss

TEMPERATURES = torch.logspace(-1, 1.5, 101)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The temperature T (S,) with the lowest L_cat of logits / T, of 101 from 0.1 to 31.6.

    Logits and labels are (S, N, C). T changes how close a probability is to 0.5, not its side.
    Baselines use it.
    """
    grid = TEMPERATURES.to(logits.device)
    losses = torch.stack([category_loss(logits / t, labels) for t in grid])  # (T, S)
    return grid[losses.argmin(0)]


def gated(logits: torch.Tensor, anomaly: torch.Tensor, exponent: float) -> torch.Tensor:
    """Logits (..., C) of p_c = sigmoid(logit_c) sigmoid(anomaly)^exponent.

    `anomaly` (...) is the logit of any anomaly. An image without signs of any anomaly so has none
    of a category either.
    """
    return _logit_of(F.logsigmoid(logits) + exponent * F.logsigmoid(anomaly)[..., None])


def among_anomalies(logits: torch.Tensor) -> torch.Tensor:
    """Logits (..., C) of each category in an image that has at least one of them.

        q_c = s_c / (1 - prod_k (1 - s_k)),    s_c = sigmoid(logit_c)

    This is the conditional probability of independent categories.
    """
    each = F.logsigmoid(logits)
    none = F.logsigmoid(-logits).sum(-1, keepdim=True)
    # log s_1 + ... + s_C, where 1 - prod (1 - s_k) is rounded to 0.
    few = torch.logsumexp(each, -1, keepdim=True)
    return _logit_of(each - torch.where(none > -1e-6, few, _log_one_minus_exp(none)))


def _logit_of(log_p: torch.Tensor) -> torch.Tensor:
    return log_p - _log_one_minus_exp(log_p.clamp_max(-1e-30))


def _log_one_minus_exp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) of x < 0 without cancellation (Maechler, 2012)."""
    near = torch.log(-torch.expm1(x).clamp_max(-1e-30))
    return torch.where(x > -0.6931, near, torch.log1p(-torch.exp(x)))


@dataclass(frozen=True)
class Prevalence:
    """Stated shares of the images: those with each category (C,), and those with any anomaly."""

    categories: torch.Tensor
    anomaly: float


def decided(
    heads: torch.Tensor, gate: float, prevalence: Prevalence | None, slopes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of p_c (..., C) and of p_any (...), from logits of all heads (..., H), any last.

    Without a stated prevalence, with q_c of `among_anomalies`:

        p_any = sigmoid(l_any)        p_c = q_c p_any^gate

    With one, p_c is the probability of any anomaly times that of c among anomalies; the `slopes` k
    (..., H) are those of `sdmad.method.combine.fit_slopes`:

        l'_any = k_any l_any + logit pi_any        p_any = sigmoid(l'_any)
        l'_c = k_c l_c + logit(pi_c / pi_any)      p_c = sigmoid(l'_c) p_any

    A catalog of one category, or a gate of 0, has p_c = sigmoid(l_c) without a stated prevalence
    and p_c = sigmoid(k_c l_c + logit pi_c) with one.
    """
    alone = heads.shape[-1] == 2 or gate == 0
    logits, anomaly = heads[..., :-1], heads[..., -1]
    if prevalence is None:
        return logits if alone else gated(among_anomalies(logits), anomaly, gate), anomaly
    shares = prevalence.categories.to(logits)
    logits, anomaly = slopes[..., :-1] * logits, slopes[..., -1] * anomaly
    anomaly = anomaly + torch.logit(torch.tensor(prevalence.anomaly), eps=1e-6).to(anomaly)
    if alone:
        return logits + torch.logit(shares), anomaly
    among = (shares / prevalence.anomaly).clamp_max(1)
    return gated(logits + torch.logit(among), anomaly, 1.0), anomaly


def conformal_thresholds(
    logits: torch.Tensor, labels: torch.Tensor, coverage: float
) -> torch.Tensor:
    """Thresholds (C, 2) of conformal prediction, class by class, from left-out images (N, C).

    A logit at or above the first leaves "with the category" possible, one at or below the second
    "without it"; each keeps at least `coverage` of the images that it is true of (Vovk, ACML 2012,
    conditional validity; split conformal quantiles). `coverage` needs n images with n + 1 >= 1 /
    (1 - coverage), 9 for 90 %; with fewer, the sets keep n / (n + 1), and with none the end is 0,
    where the finding changes.
    """
    ends = torch.zeros(logits.shape[1], 2)
    for c, (values, present) in enumerate(zip(logits.T, labels.T > 0.5, strict=True)):
        for side, (some, sign) in enumerate(((values[present], 1), (values[~present], -1))):
            known = (sign * some[torch.isfinite(some)]).sort().values
            rank = max(1, int((1 - coverage) * (len(known) + 1) + 1e-9))
            if len(known):
                ends[c, side] = sign * known[rank - 1]
    return ends.to(logits)


def conformal_sets(logits: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Whether "with the category" and "without it" are possible: (S, B, C, 2) from logits
    (S, B, C) and thresholds (S, C, 2)."""
    with_it = logits >= thresholds[:, None, :, 0]
    return torch.stack([with_it, logits <= thresholds[:, None, :, 1]], dim=-1)


def undecided(logits: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Whether both answers are possible, or neither: (S, B, C), arguments as above."""
    possible = conformal_sets(logits, thresholds)
    return possible[..., 0] == possible[..., 1]
