"""Which features and which classifier suit the patch probe: AUROC on a development split.

    python benchmarks/probe_features.py ARCHIVE DEVELOPMENT CATALOG --backbone FOLDER

DEVELOPMENT is a table that `development.py` wrote. Every classifier has the heads of the patch
probe, one for each category against all other images and one for any anomaly. All have the same
supports.

Features are of the frozen image tower. Of the patch tokens at the input of the last block: the
maximum of each channel (the probe's), the mean of its highest tenth, and its mean. Of the whole
image: what the projection to the embedding reads (where that is a module), and the embedding.

Classifiers; features are centred and scaled on the support, if nothing else is said:

- ridge: the probe's, with closed-form outputs for left-out images
- ridge, penalty x p: with p times the penalty
- ridge, n unlabelled: centred and scaled on n images of the table instead
- ridge, whitened: by the covariance of the largest n unlabelled images (Ledoit-Wolf)
- LDA: the means of both sides, and the covariance around them (Ledoit-Wolf)
- GDA: the same with the precision matrix of the baseline GDA

Prints AUROC x 100, means over seeds: any anomaly against normal / a category against other
anomalies / a category against normal, as the protocols define them, for each number of shots. Then
the mean of all these, its difference from the first row, with Student's 95 % interval over seeds,
and the AUROC of left-out support images where closed forms give it, a mean over heads, seeds and
numbers of shots above 1.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated
from unittest.mock import patch

import numpy as np
import torch
import typer
from scipy import stats
from sklearn.covariance import ledoit_wolf

from sdmad import storage
from sdmad.archive.selected import decode_members
from sdmad.backbones.config import PHANTOM, BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.baselines.gda import Moments
from sdmad.evaluation import protocols
from sdmad.fitting.config import parse_numbers
from sdmad.fitting.reading import Image, groups, refuse
from sdmad.inputs.catalog import Catalog, load_catalog
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.inputs.support import draw_support
from sdmad.method import probe
from sdmad.method.standard import Standard, fit_standard

UNLABELLED = (200, 2000)
Archive = Annotated[str, typer.Argument(help="Archive, path or s3:// URI.")]
Development = Annotated[str, typer.Argument(help="Label table of development.py.")]
CatalogName = Annotated[str, typer.Argument(help="Catalog: a shipped name or a file.")]
BackboneName = Annotated[str, typer.Option(help="Backbone; default: the embedded one.")]
Shots = Annotated[str, typer.Option(help="Numbers of shots.")]
Seeds = Annotated[str, typer.Option(help="Seeds, one support each, at least two.")]
Head = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From images (N, D), and which of them are shown (N,), to a plane (D + 1,), the constant last."""
Outputs = tuple[torch.Tensor, torch.Tensor]
"""Of H heads: for all images (M, H), and for support images by the others (N, H)."""
Classifier = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], Outputs]
"""From features of all images (M, D), support rows (N,), their labels (N, C), and shots."""
Entry = tuple[str, torch.Tensor, str, Classifier]
"""The features' name, the features of all images (M, D), and the classifier's name and itself."""


@torch.no_grad()
def encode(backbone: Backbone, pixels: np.ndarray) -> dict[str, torch.Tensor]:
    """The features (B, D) of uint8 images (B, height, width, 3), by name."""
    tower, projected = backbone.image, list[torch.Tensor]()
    last = tower.first_adapted(1)
    before = tower.before_block(backbone.pixels(pixels), last)
    tokens = before.f_in[:, tower.class_tokens :]
    activations = tower.adapted_part(before, last)
    head = getattr(tower.visual, "head", None)
    if isinstance(head, torch.nn.Module):
        with head.register_forward_pre_hook(lambda _, inputs: projected.append(inputs[0])):
            embeddings = tower.frozen(activations)
    else:
        embeddings = tower.frozen(activations)
    return {
        "patch maximum": before.patches,
        "patch mean of a tenth": tokens.topk(max(1, tokens.shape[1] // 10), dim=1)[0].mean(1),
        "patch mean": tokens.mean(1),
        **dict.fromkeys(["before projection"][: len(projected)], *projected),
        "embedding": torch.nn.functional.normalize(embeddings, dim=-1),
    }


def read(
    backbone: Backbone, archive: str, images: list[Image], catalog: Catalog
) -> dict[str, torch.Tensor]:
    """The features (M, D) of all images, in double precision, by name."""
    spec, at_once = catalog.chosen_input(None).apply(backbone.spec), backbone.images_at_once
    names, parts = list[Image](), list[dict[str, torch.Tensor]]()
    for group in groups(images):
        pixels, problems = decode_members(archive, group, spec)
        refuse(problems)
        for start in range(0, len(group), at_once):
            some = group[start : start + at_once]
            parts.append(encode(backbone, np.stack([pixels[image] for image in some])))
            names += some
    place = {image: k for k, image in enumerate(names)}
    order = [place[image] for image in images]
    return {name: torch.cat([part[name] for part in parts]).double()[order] for name in parts[0]}


def opened(
    archive: str, development: str, catalog: Catalog, backbone: Backbone
) -> tuple[LabelTable, dict[str, torch.Tensor]]:
    """A development table, and the features of its images, on one core."""
    torch.set_num_threads(1)
    base = storage.resolve(archive)
    table = load_labels(storage.resolve(development), catalog.category_names, base)
    images = list(zip(table.archive.tolist(), table.member.tolist(), strict=True))
    return table, read(backbone, base, images, catalog)


def ridge(standard: Standard | None = None, penalty: float = 1.0) -> Classifier:
    """The probe's regression, with another `standard`, and with `penalty` times its penalty."""

    def fit(every: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor, shots: int) -> Outputs:
        chosen = standard or fit_standard(every[rows])
        config = probe.ProbeConfig(ridge=penalty * probe.ProbeConfig().ridge)
        with patch.object(probe, "fit_standard", return_value=chosen):
            fitted = probe.fit_probe(every[rows], labels, shots, config)
        return probe.probe_evidence(every, fitted.planes[None])[0], fitted.held_out

    return fit


def whitened(some: torch.Tensor) -> Classifier:
    """The probe's regression on features in which images `some` (n, D) have a covariance of 1."""
    values, vectors = torch.linalg.eigh(torch.from_numpy(ledoit_wolf(some.numpy())[0]))
    change = vectors / values.sqrt()
    width = some.shape[1]
    regression = ridge(Standard(torch.zeros(width).double(), torch.ones(width).double()))
    return lambda every, *support: regression((every - some.mean(0)) @ change, *support)


def gaussian(head: Head) -> Classifier:
    """Heads of two Gaussians with the same covariance; left-out images have no outputs."""

    def fit(every: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor, shots: int) -> Outputs:
        every = fit_standard(every[rows]).apply(every)
        support, targets = every[rows], probe.with_any(labels).bool()
        outputs = every.new_zeros(len(every), targets.shape[1])
        for column, shown in enumerate(targets.T):
            if shown.any() and not shown.all():
                plane = head(support, shown)
                outputs[:, column] = every @ plane[:-1] + plane[-1]
        return outputs, torch.full(targets.shape, float("nan"))

    return fit


def lda(images: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Linear discriminant analysis with the shrinkage of Ledoit and Wolf."""
    means = torch.stack([images[~shown].mean(0), images[shown].mean(0)])
    around = (images - means[shown.long()]).numpy()
    covariance = torch.from_numpy(ledoit_wolf(around, assume_centered=True)[0])
    covariance += 1e-9 * torch.eye(len(covariance))  # Two images have no covariance.
    slope = torch.linalg.solve(covariance, means[1] - means[0])
    return torch.cat([slope, -(slope @ means.mean(0))[None]])


def gda(images: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Gaussian discriminant analysis as the baseline has it."""
    return Moments.of(images, torch.stack([~shown, shown], dim=1)).planes()[0]


def unlabelled(every: torch.Tensor) -> list[torch.Tensor]:
    """Features of a few and of many images, drawn from all (M, D) without regard to labels."""
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    return [every[order[:count]] for count in UNLABELLED]


def classifiers(every: torch.Tensor) -> Iterator[tuple[torch.Tensor, str, Classifier]]:
    """All classifiers on features (M, D) of all images, by name."""
    yield every, "ridge", ridge()
    for times in (0.1, 10.0):
        yield every, f"ridge, penalty x {times:g}", ridge(penalty=times)
    for some in unlabelled(every):
        yield every, f"ridge, {len(some):,} unlabelled", ridge(fit_standard(some))
    yield every, "ridge, whitened", whitened(unlabelled(every)[-1])
    yield every, "LDA", gaussian(lda)
    yield every, "GDA", gaussian(gda)


def measured(
    fit: Classifier, every: torch.Tensor, table: LabelTable, rows: np.ndarray, shots: int
) -> list[float]:
    """The three AUROC of test images, and that of left-out support images (NaN without them)."""
    test, labels = table.split == "test", torch.from_numpy(table.labels[rows]).double()
    outputs, held_out = fit(every, torch.from_numpy(rows), labels, shots)
    truth, scores = table.labels[test], outputs[test].numpy()
    anomaly = protocols.anomaly_detection(truth, scores[:, -1])["auroc"]
    found = protocols.category_discrimination(truth, scores[:, :-1])
    targets, known = probe.with_any(labels).bool().numpy(), held_out.isfinite().numpy()
    left_out = [
        protocols.auroc(targets[some, head], held_out.numpy()[some, head])
        for head, some in enumerate(known.T)
        if some.any() and shots > 1
    ]
    categories = [float(np.nanmean(found[kind])) for kind in ("others", "normal")]
    return [anomaly, *categories, float(np.mean(left_out)) if left_out else float("nan")]


def report(table: LabelTable, entries: Iterable[Entry], shots: str, seeds: str) -> None:
    """Measure features and classifiers and print a table; differences are from the first entry."""
    ks, numbers = parse_numbers(shots, "shots"), parse_numbers(seeds, "seeds")
    draws = [[(draw_support(table, k, seed), k) for seed in numbers] for k in ks]
    tested = int((table.split == "test").sum())
    print(f"{len(table):,} images, {tested:,} of them for tests; {len(numbers)} seeds\n")
    columns = ["features", "classifier", *(f"K = {k}" for k in ks), "mean", "difference"]
    print(f"| {' | '.join([*columns, 'left out'])} |\n|{'---|' * (len(columns) + 1)}")
    first: np.ndarray | None = None
    for feature, every, name, fit in entries:
        found = [[measured(fit, every, table, *draw) for draw in of_k] for of_k in draws]
        values = 100 * np.array(found)  # (shots, seeds, 4)
        of_seeds = values[..., :3].mean((0, 2))
        first = of_seeds if first is None else first
        apart = of_seeds - first
        half = stats.t.ppf(0.975, len(apart) - 1) * stats.sem(apart)
        known = values[..., 3][np.isfinite(values[..., 3])]
        cells = [" / ".join(f"{v:.1f}" for v in one) for one in values[..., :3].mean(1)]
        last = [f"{of_seeds.mean():.1f}", f"{apart.mean():+.1f} ± {half:.1f}"]
        shown = [feature, name, *cells, *last, f"{known.mean():.1f}" if known.size else "-"]
        print(f"| {' | '.join(shown)} |", flush=True)


def main(
    archive: Archive,
    development: Development,
    catalog: CatalogName,
    backbone: BackboneName = PHANTOM,
    shots: Shots = "1,4,16",
    seeds: Seeds = "0:8",
) -> None:
    """Compare features and classifiers of the patch probe; print a table."""
    model = load_backbone(BackboneConfig(model=backbone), "cpu")
    table, features = opened(archive, development, load_catalog(catalog), model)
    entries = ((feature, *made) for feature, x in features.items() for made in classifiers(x))
    report(table, entries, shots, seeds)


if __name__ == "__main__":
    typer.run(main)
