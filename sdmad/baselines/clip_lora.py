"""CLIP-LoRA (Zanella and Ben Ayed, arXiv 2405.18541): low-rank changes of attention in both towers.

The matrices W of queries, keys and values in every transformer block become W + s B A, with A
(2, in) and B (out, 2), s = 1 / sqrt(2). A is drawn as for `nn.Linear`, B is 0, so that the model is
the frozen one before the first step. Dropout of 0.25 stands before A. All else is frozen.

[choice] Each category against normal, with the prompts of its signs, instead of a softmax over
classes with one prompt each. The common number of steps instead of 500 for each shot, and Adam
without weight decay. Dropout leaves out input channels of A, the same for all tokens of a step, so
that the change stays one of the weights. In towers of stages only the last stage has blocks that
count.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from sdmad.backbones.towers import Activations, Tower
from sdmad.baselines.base import FrozenImages, Scorer, Task, calibrated, train
from sdmad.baselines.residual import adapted_tower
from sdmad.baselines.texts import ClassTexts, text_evidence
from sdmad.errors import UserError

RANK = 2
ALPHA = 1
DROPOUT = 0.25
LEARNING_RATE = 2e-4

STACKED = ("in_proj_weight", "qkv.weight")
"""Queries, keys and values in one matrix: open_clip and PyTorch, timm."""
SINGLE = ("query", "key", "value", "q", "k", "v", "q_proj", "k_proj", "v_proj")
"""Layers of one of them: BERT and RoBERTa, T5, M2M-100 and timm's EVA."""


class LowRank(nn.Module):
    """The change s B A of `count` matrices that stand in one weight (out, in)."""

    def __init__(self, weight: torch.Tensor, count: int, generator: torch.Generator) -> None:
        super().__init__()
        out, width = weight.shape
        self.generator = generator
        self.a = nn.Parameter(torch.empty(count, RANK, width))
        self.b = nn.Parameter(torch.zeros(count, out // count, RANK))
        for a in self.a:
            nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight (out, in)."""
        a: torch.Tensor = self.a
        if self.training:
            kept = torch.rand(a.shape[-1], generator=self.generator) >= DROPOUT
            a = a * (kept / (1 - DROPOUT)).to(a)
        return weight + ALPHA / RANK**0.5 * (self.b @ a).flatten(0, 1)


@dataclass(frozen=True)
class AdaptedBlock:
    """A block that computes with changed weights; `changes` has those by name."""

    block: nn.Module
    changes: dict[str, LowRank]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        changed = {name: of(self.block.get_parameter(name)) for name, of in self.changes.items()}
        return functional_call(self.block, changed, args, kwargs)


class AdaptedTower(nn.Module):
    """A frozen tower with low-rank changes in all blocks.

    Raises `UserError` for a tower whose blocks have no attention of a known kind.
    """

    def __init__(self, tower: Tower, generator: torch.Generator) -> None:
        super().__init__()
        device = next(tower.blocks.parameters()).device
        adapted: Any = copy.copy(tower)
        adapted.blocks = []
        changes: list[nn.Module] = []
        for block in tower.blocks:
            by_name = {
                name: LowRank(weight, count, generator).to(device)
                for name, weight, count in attention_weights(block)
            }
            # Blocks of their own, with the same weights: only these see changed ones.
            own = copy.deepcopy(block, {id(weight): weight for weight in block.parameters()})
            adapted.blocks.append(AdaptedBlock(own, by_name))
            changes += by_name.values()
        if not changes:
            raise UserError(
                f"CLIP-LoRA knows no attention in the blocks of this backbone "
                f"({type(tower.blocks[0]).__name__}); leave clip_lora out of the methods"
            )
        self.changes = nn.ModuleList(changes)
        self.tower: Tower = adapted

    def forward(self, activations: Activations) -> torch.Tensor:
        """Unit embeddings (B, E) from the input of the first block, `activations.f_in`."""
        output = self.tower.block(0, activations.f_in, activations)
        activations = replace(activations, f_frozen=output)
        return F.normalize(adapted_tower(self.tower, activations, {}), dim=-1)


def attention_weights(block: nn.Module) -> Iterator[tuple[str, torch.Tensor, int]]:
    """Name and weight of each matrix of queries, keys or values, and how many it stacks."""
    for name, weight in block.named_parameters():
        path = name.split(".")
        if name.endswith(STACKED):
            yield name, weight, 3
        elif len(path) > 1 and path[-1] == "weight" and path[-2] in SINGLE:
            yield name, weight, 1


def fit(task: Task) -> Scorer:
    """Fit the changes of both towers together."""
    backbone, scale = task.backbone, task.backbone.logit_scale
    texts = ClassTexts.signs(task.catalog)
    prompts = backbone.text.before_block(backbone.tokens(texts.texts), 0)
    image = AdaptedTower(backbone.image, task.generator)
    text = AdaptedTower(backbone.text, task.generator)

    def learning(images: FrozenImages) -> torch.Tensor:
        rows = texts.rows_of_step(task.generator)
        some = backbone.text.texts(prompts, rows)
        features = texts.some(rows).features(text(some))
        return text_evidence(image(images.before_blocks()), features, scale)

    changes = [*image.parameters(), *text.parameters()]
    bias = train(task, learning, changes, LEARNING_RATE)
    image.eval(), text.eval()
    with torch.no_grad():
        features = texts.features(text(prompts))

    def evidence(images: FrozenImages) -> torch.Tensor:
        return text_evidence(image(images.before_blocks()), features, scale)

    return calibrated(task, evidence, bias)
