"""How similarities of signs are best centred and scaled: AUROC on a development split.

    python benchmarks/sign_standards.py ARCHIVE DEVELOPMENT CATALOG --backbone FOLDER

DEVELOPMENT is a table that `development.py` wrote. The contrasts of the frozen signs, all signs
with equal weights, nothing trained. The mean of each sign, and one deviation for all signs or one
for each, are those of the support, or of n images of the table without regard to labels. Prints the
table of `probe_features.py`.
"""

from collections.abc import Callable, Iterator

import torch
import typer
from probe_features import (
    Archive,
    BackboneName,
    CatalogName,
    Classifier,
    Development,
    Entry,
    Outputs,
    Seeds,
    Shots,
    opened,
    report,
    unlabelled,
)

from sdmad.backbones.config import PHANTOM, BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.inputs.catalog import load_catalog
from sdmad.method.learner import LearnerConfig
from sdmad.method.losses import equal_soft_maxima, soft_maximum, uniform_log_weights
from sdmad.method.model import SignModel, contrasts
from sdmad.method.standard import Standard, fit_standard, pooled_standard


def contrasted(
    model: SignModel,
    standard: Callable[[torch.Tensor], Standard],
    reference: torch.Tensor | None = None,
) -> Classifier:
    """Contrasts by the standard of the support, or of the similarities `reference` (n, signs)."""

    def fit(every: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor, _: int) -> Outputs:
        z = standard(every[rows] if reference is None else reference).apply(every)
        categories = equal_soft_maxima(z, model.membership)
        normal = soft_maximum(z, uniform_log_weights(model.normal))
        found = contrasts(categories, categories, normal)
        return found, torch.full((len(rows), found.shape[1]), float("nan"))

    return fit


def standards(every: torch.Tensor, model: SignModel) -> Iterator[Entry]:
    """All standards of similarities (M, signs), by name."""
    name = "frozen signs"
    yield name, every, "one deviation", contrasted(model, pooled_standard)
    yield name, every, "one for each sign", contrasted(model, fit_standard)
    for some in unlabelled(every):
        of_others = contrasted(model, pooled_standard, some)
        yield name, every, f"one deviation, {len(some):,} unlabelled", of_others


def main(
    archive: Archive,
    development: Development,
    catalog: CatalogName,
    backbone: BackboneName = PHANTOM,
    shots: Shots = "1,4,16",
    seeds: Seeds = "0:8",
) -> None:
    """Compare standards of the similarities of signs; print a table."""
    model = load_backbone(BackboneConfig(model=backbone), "cpu")
    table, features = opened(archive, development, load_catalog(catalog), model)
    learner = LearnerConfig()
    signs = SignModel(model, learner.chosen_signs(load_catalog(catalog)), learner.adapter, seeds=1)
    similarities = features["embedding"] @ signs.frozen_signs.double().T
    report(table, standards(similarities, signs), shots, seeds)


if __name__ == "__main__":
    typer.run(main)
