"""CoOp (Zhou et al., arXiv 2109.01134): learned context vectors before each category's text.

All categories share one context (the paper's unified context), the text of the category comes last,
and both towers are frozen. `fit_names` uses category names, as in the paper.

[choice] `fit_signs` puts the same context before every prompt of every sign, for catalogs whose
names the backbone does not know. There are four context vectors. The paper draws them from
N(0, 0.02); here that draw is added to the embedding of a placeholder word, so that the tower adds
the position embeddings. Each category against normal instead of a softmax over all classes.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from sdmad.backbones.loading import Backbone
from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated, train
from sdmad.baselines.residual import adapted_tower
from sdmad.baselines.texts import ClassTexts, text_evidence

CONTEXT = 4
LEARNING_RATE = 1e-3
PLACEHOLDERS = ("x", "q")


class PromptLearner(nn.Module):
    """Context vectors (CONTEXT, D) and the texts that follow them."""

    def __init__(self, backbone: Backbone, texts: ClassTexts, generator: torch.Generator) -> None:
        super().__init__()
        self.tower = backbone.text
        self.texts = texts
        tokens, other = (
            backbone.tokens([" ".join([word] * CONTEXT + [text]) for text in texts.texts])
            for word in PLACEHOLDERS
        )
        self.prompts = self.tower.before_block(tokens, 0)
        # The two placeholders differ exactly where the context stands, in any tokenizer.
        # Padding behind the last token may be cut, and a class token may stand behind all.
        length = self.prompts.f_in.shape[1]
        self.where = F.pad(tokens != other, (0, length - tokens.shape[1]))
        if not bool((self.where.sum(1) == CONTEXT).all()):
            raise ValueError(
                "CoOp needs a tokenizer that makes one token of each placeholder word "
                f"({' and '.join(PLACEHOLDERS)})"
            )
        drawn = torch.empty(CONTEXT, self.tower.width).normal_(0, 0.02, generator=generator)
        self.context = nn.Parameter(drawn.to(backbone.device))

    def features(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Class features (1 + C, E) of the prompts with their context, of those at `rows`."""
        rows = torch.arange(len(self.texts.texts)) if rows is None else rows
        prompts = self.tower.texts(self.prompts, rows)
        tokens = prompts.f_in.clone()
        where = self.where[rows, : tokens.shape[1]]
        tokens[where] += self.context.repeat(len(tokens), 1)
        output = self.tower.block(0, tokens, prompts)
        prompts = replace(prompts, f_in=tokens, f_frozen=output)
        return self.texts.some(rows).features(adapted_tower(self.tower, prompts, {}))


def fit_names(task: Task) -> Scorer:
    """CoOp with the names of the categories."""
    return _fit(task, ClassTexts.names(task.catalog))


def fit_signs(task: Task) -> Scorer:
    """CoOp with the prompts of the signs."""
    return _fit(task, ClassTexts.signs(task.catalog))


def _fit(task: Task, texts: ClassTexts) -> Scorer:
    learner = PromptLearner(task.backbone, texts, task.generator)
    scale = task.backbone.logit_scale

    def learning(images: FrozenImages) -> torch.Tensor:
        features = learner.features(texts.rows_of_step(task.generator))
        return text_evidence(images.embeddings, features, scale)

    bias = train(task, learning, [learner.context], LEARNING_RATE)
    with torch.no_grad():
        features = learner.features()
    return calibrated(task, lambda i: text_evidence(i.embeddings, features, scale), bias)
