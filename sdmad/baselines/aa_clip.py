"""AA-CLIP (Ma et al., arXiv 2503.06661): residual adapters in the early blocks of both towers.

After each block of the first quarter of a tower, x' = lambda A(x) + (1 - lambda) x with lambda 0.1
and A(x) = LeakyReLU(W x), rescaled token by token to the norm of x. Each tower ends with a trained
projection. There are two stages. First the text tower is adapted to the frozen image tower, with a
penalty on the squared cosine similarity of the texts of normal and of an anomaly. Then the image
tower is adapted to the adapted texts.

[choice] Each category against normal, with the prompts of its signs, instead of one anomaly. The
support instead of an auxiliary data set. The image embedding of the backbone instead of patch maps,
which need masks. The trained projection follows the backbone's own and starts at the identity, so
that a few shots need not align the towers again. Each stage takes all steps.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.backbones.towers import Activations, Tower
from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated, train
from sdmad.baselines.residual import adapted_tower
from sdmad.baselines.texts import ClassTexts, text_evidence

ADAPTED_SHARE = 4
RESIDUAL_WEIGHT = 0.1
DISENTANGLE_WEIGHT = 0.1
LEARNING_RATE = 1e-4


class ResidualAdapter(nn.Module):
    """The adapter after one block: x' from tokens x (1, B, T, D)."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        nn.init.xavier_uniform_(self.linear.weight, generator=generator)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        adapted = F.leaky_relu(self.linear(tokens))
        norm = adapted.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        adapted = adapted * tokens.norm(dim=-1, keepdim=True) / norm
        return RESIDUAL_WEIGHT * adapted + (1 - RESIDUAL_WEIGHT) * tokens


class AdaptedTower(nn.Module):
    """A frozen tower with adapters after its first blocks and a projection at its end."""

    def __init__(self, tower: Tower, embedding: int, generator: torch.Generator) -> None:
        super().__init__()
        self.tower = tower
        count = -(-len(tower.blocks) // ADAPTED_SHARE)
        self.adapters = nn.ModuleList(ResidualAdapter(tower.width, generator) for _ in range(count))
        self.projection = nn.Parameter(torch.eye(embedding))

    def forward(self, activations: Activations) -> torch.Tensor:
        """Unit embeddings (B, E) from the output of the first block."""
        embeddings = adapted_tower(self.tower, activations, dict(enumerate(self.adapters)))
        return F.normalize(embeddings @ self.projection, dim=-1)


def fit(task: Task) -> Scorer:
    """Fit the text tower, then the image tower."""
    backbone, scale = task.backbone, task.backbone.logit_scale
    features = _fit_text(task)
    image = AdaptedTower(backbone.image, features.shape[1], task.generator).to(backbone.device)

    def evidence(images: FrozenImages) -> torch.Tensor:
        return text_evidence(image(images.after_block(0)), features, scale)

    return calibrated(task, evidence, train(task, evidence, image.parameters(), LEARNING_RATE))


def _fit_text(task: Task) -> torch.Tensor:
    """Class features (1 + C, E) of the adapted text tower."""
    backbone, texts = task.backbone, ClassTexts.signs(task.catalog)
    tokens = backbone.tokens(texts.texts)
    prompts = backbone.text.prefix(tokens, len(backbone.text.blocks))
    width = task.support.views.embeddings.shape[1]
    text = AdaptedTower(backbone.text, width, task.generator).to(backbone.device)
    latest: list[torch.Tensor] = []

    def evidence(images: FrozenImages) -> torch.Tensor:
        rows = texts.rows_of_step(task.generator)
        some = backbone.text.texts(prompts, rows)
        latest[:] = [texts.some(rows).features(text(some))]
        return text_evidence(images.embeddings, latest[0], backbone.logit_scale)

    def entangled() -> torch.Tensor:
        # The features of the same step: `train` computes the penalty after the evidence.
        (features,) = latest
        return DISENTANGLE_WEIGHT * (features[1:] @ features[0]).square().mean()

    train(task, evidence, text.parameters(), LEARNING_RATE, penalty=entangled)
    with torch.no_grad():
        return texts.features(text(prompts))
