"""Class texts for the text tower: the names of categories, or the prompts of their signs.

CLIP (arXiv 2103.00020) compares an image with the text of each class, embedded as the unit mean
over templates. Class 0 is normal, class c the c-th category of the catalog.

[choice] Methods that train the text tower read one text of at most `SIGNS_OF_CLASS` signs of each
class in a training step, drawn anew, because the gradient of all texts costs several times as much.
Every score uses all texts of all signs.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from sdmad.backbones.loading import Backbone
from sdmad.inputs.catalog import Catalog

SIGNS_OF_CLASS = 4


@dataclass(frozen=True)
class ClassTexts:
    """P texts of M signs (or names), and the signs of each class.

    `owner` (P,) is the sign of each text, `membership` is bool (1 + C, M).
    """

    texts: list[str]
    owner: torch.Tensor
    membership: torch.Tensor

    @staticmethod
    def names(catalog: Catalog) -> "ClassTexts":
        """The categories' names in the catalog's templates."""
        titles = [catalog.normal_title, *map(catalog.title, catalog.categories)]
        texts = [template.format(title) for title in titles for template in catalog.templates]
        owner = torch.arange(len(titles)).repeat_interleave(len(catalog.templates))
        return ClassTexts(texts, owner, torch.eye(len(titles), dtype=torch.bool))

    @staticmethod
    def signs(catalog: Catalog) -> "ClassTexts":
        """The prompts of the categories' signs in the catalog's templates."""
        texts, owner = catalog.texts
        membership = np.vstack([catalog.normal_membership, catalog.membership])
        return ClassTexts(texts, torch.from_numpy(owner), torch.from_numpy(membership))

    def rows_of_step(self, generator: torch.Generator) -> torch.Tensor:
        """Rows of one text of each sign that a training step reads, in the order of signs.

        Of each class at most `SIGNS_OF_CLASS` signs are drawn; a sign counts for all classes that
        have it. Where gradients are off, the rows (P,) of all texts.
        """
        if not torch.is_grad_enabled():
            return torch.arange(len(self.texts))
        by_sign = torch.argsort(self.owner, stable=True)
        counts = torch.bincount(self.owner, minlength=self.membership.shape[1])
        draws = (torch.rand(len(counts), generator=generator) * counts).long()
        rows = by_sign[counts.cumsum(0) - counts + draws]
        # The first signs of each class in one random order of all signs.
        order = torch.rand(len(counts), generator=generator).argsort()
        rank = self.membership[:, order].cumsum(1)
        drawn = (self.membership[:, order] & (rank <= SIGNS_OF_CLASS)).any(0)
        return rows[order[drawn].sort().values]

    def some(self, rows: torch.Tensor) -> "ClassTexts":
        """The texts at `rows`, at least one of each class, and their signs."""
        signs, owner = self.owner[rows].unique(return_inverse=True)
        texts = [self.texts[row] for row in rows]
        return ClassTexts(texts, owner, self.membership[:, signs])

    def features(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Class features (1 + C, E) from text embeddings (P, E).

        They are unit means, first over the texts of a sign, then over the signs of a class.
        """
        device = embeddings.device
        units = F.normalize(embeddings, dim=-1)
        sums = torch.zeros(self.membership.shape[1], units.shape[1], device=device)
        signs = F.normalize(sums.index_add(0, self.owner.to(device), units), dim=-1)
        return F.normalize(self.membership.to(device).float() @ signs, dim=-1)

    def frozen_features(self, backbone: Backbone) -> torch.Tensor:
        """Class features (1 + C, E) of the frozen text tower."""
        return self.features(_embedded(backbone, tuple(self.texts)))


@lru_cache(maxsize=2)
def _embedded(backbone: Backbone, texts: tuple[str, ...]) -> torch.Tensor:
    """Unit embeddings of texts, which are the same for every method and support."""
    return backbone.embed_texts(list(texts))


def text_evidence(units: torch.Tensor, features: torch.Tensor, scale: float) -> torch.Tensor:
    """tau (<v, t_c> - <v, t_0>), the evidence (..., C) for each category against normal.

    `units` v are unit embeddings (..., E), `features` t (1 + C, E). It is the logit of c in a
    softmax over normal and c alone, so an image can have several categories.
    """
    return scale * units @ (features[1:] - features[0]).T
