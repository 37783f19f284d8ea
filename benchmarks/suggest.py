"""What `sdmad suggest` is worth: macro AUROC against labels spent, against random draws.

    python benchmarks/suggest.py
    python benchmarks/suggest.py --data ODIR --backbone FOLDER

Each seed starts from its own support. In each round all its labelled images are fitted, the pool is
scored, and `--count` further images are labelled: those that `suggest` chooses, or as many at
random. Macro AUROC is the mean over categories of the AUROC of images with the category against
all others, on the test split. Images are encoded once, without Ray.

Phantoms are 600 test images and a pool in which categories are rarer from the first to the last:
an image is kept with the product of its categories' `KEPT`. ODIR is the folder with the shards and
labels.csv, with the pool and the test images of its table.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from sdmad.archive.selected import decode_members
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.backbones.towers import Activations
from sdmad.evaluation.statistics import over_seeds
from sdmad.inputs.catalog import Catalog, load_catalog
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.inputs.support import draw_support, eligible_rows
from sdmad.method.adapter import AdapterConfig
from sdmad.method.augment import AugmentConfig, SupportImages, augment
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.model import DecisionRule, SignModel
from sdmad.method.threshold import FINDING_THRESHOLD
from sdmad.method.views import EncodedViews, SupportCache
from sdmad.phantoms.task import CATEGORIES, draw_example
from sdmad.scoring.suggestions.choice import Pool, choose

DRAWN, TESTED = 3000, 600
KEPT = dict(zip(CATEGORIES, (1.0, 0.6, 0.4, 0.25, 0.15, 0.1), strict=True))
ARMS = ("suggest", "random")


def phantoms() -> tuple[np.ndarray, LabelTable]:
    """Pixels (N, 64, 64, 3) and labels, pool first."""
    rng = np.random.default_rng(0)
    examples = []
    for k in range(DRAWN):
        example = draw_example(k, "pool")
        if rng.random() < np.prod([KEPT[name] for name in example.labels]):
            examples.append(example)
    examples += [draw_example(k, "test") for k in range(TESTED)]
    table = LabelTable(
        archive=np.array([""] * len(examples), object),
        member=np.array([e.member for e in examples], object),
        patient=np.array([e.patient_id for e in examples], object),
        split=np.array([e.split for e in examples], object),
        labels=np.array([[c in e.labels for c in CATEGORIES] for e in examples]),
        categories=list(CATEGORIES),
    )
    return np.stack([np.repeat(e.image[..., None], 3, axis=2) for e in examples]), table


def fundus(data: Path, catalog: Catalog, backbone: Backbone) -> tuple[np.ndarray, LabelTable]:
    """Pixels (N, H, W, 3) and labels of ODIR-5K."""
    table = load_labels(str(data / "labels.csv"), catalog.category_names, str(data))
    names = list(zip(table.archive.tolist(), table.member.tolist(), strict=True))
    spec = catalog.chosen_input(None).apply(backbone.spec)
    pixels, problems = decode_members(str(data), names, spec)
    if problems:
        raise SystemExit(problems[0])
    return np.stack([pixels[name] for name in names]), table


@dataclass
class Bench:
    """Encoded images of one archive, and what is fitted to them."""

    backbone: Backbone
    catalog: Catalog
    learner: LearnerConfig
    pixels: np.ndarray
    table: LabelTable
    pool: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.pool = np.array(eligible_rows(self.table))
        self.test = np.flatnonzero(self.table.split == "test")
        self.position = {int(row): k for k, row in enumerate(self.pool)}
        model = SignModel(self.backbone, self.catalog, AdapterConfig(), 1)
        views = self.learner.augment.views

        def pixels(numbers: Sequence[int]) -> np.ndarray:
            return np.stack([self._view(*divmod(number, views)) for number in numbers])

        with torch.inference_mode():
            self.views = EncodedViews(model, pixels, views * len(self.pool))
            self.frozen = self._prefix(self.test)

    def _view(self, position: int, view: int) -> np.ndarray:
        row = self.pool[position]
        key = str(self.table.member[row])
        return augment(self.pixels[row], key, view, self.learner.augment)

    def _prefix(self, rows: np.ndarray) -> list[tuple[Activations, torch.Tensor]]:
        parts = np.array_split(rows, max(1, len(rows) // self.backbone.images_at_once))
        return [
            self.backbone.image_activations(self.backbone.pixels(self.pixels[part]), 1, lean=True)
            for part in parts
        ]

    def fit(
        self, labelled: list[list[int]], seeds: list[int], choosing: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fits to `labelled` rows: logits (S, T, C + 1) of the test images, and of the pool, for
        the first `choosing` fits; any anomaly last."""
        supports = [self._support(rows, s) for rows, s in zip(labelled, seeds, strict=True)]
        model, rule = fit_batch(
            self.backbone, self.catalog, supports, self.learner, encoder=self._cached
        )
        with torch.inference_mode():
            test = self._logits(model, rule, self.frozen)
            if not choosing:
                return test, test[:0]
            some = DecisionRule(**{f.name: getattr(rule, f.name)[:choosing] for f in fields(rule)})
            return test, self._logits(model.part(slice(choosing)), some, self._pool())

    def _logits(
        self,
        model: SignModel,
        rule: DecisionRule,
        images: Iterable[tuple[Activations, torch.Tensor]],
    ) -> np.ndarray:
        signs = model.sign_embeddings()
        read = (model.read(activations, frozen, signs) for activations, frozen in images)
        found = (rule.evidence(model, readings, self.learner) for readings in read)
        parts = [torch.cat([one.logits, one.anomaly[..., None]], dim=-1) for one in found]
        return torch.cat(parts, dim=1).numpy()

    def _pool(self) -> Iterator[tuple[Activations, torch.Tensor]]:
        """The images of the pool as they are: of all views the first."""
        for rows in torch.arange(len(self.pool)).split(self.backbone.images_at_once):
            first = rows * self.learner.augment.views
            taken = self.views.take(first[None])
            one = taken.of_images(taken.f_in[0], taken.f_frozen[0], taken.patches[0])
            yield one, self.views.frozen[first]

    def _support(self, rows: list[int], seed: int) -> SupportImages:
        labels = self.table.labels[rows]
        keys = [str(self.table.member[row]) for row in rows]
        fewest = min(int(labels.sum(axis=0).min()), int((~labels.any(axis=1)).sum()))
        return SupportImages(fewest, seed, keys, self.pixels[rows], labels)

    def _cached(
        self, model: SignModel, supports: list[SupportImages], config: AugmentConfig
    ) -> SupportCache:
        names = {str(self.table.member[row]): k for row, k in self.position.items()}
        images = [torch.tensor([names[key] for key in support.keys]) for support in supports]
        return SupportCache(self.views, config.views, images)

    def auroc(self, logits: np.ndarray) -> float:
        """Macro AUROC of logits (N, C + 1) of the test images, per cent."""
        truth = self.table.labels[self.test]
        columns = range(truth.shape[1])
        return 100 * float(np.mean([roc_auc_score(truth[:, c], logits[:, c]) for c in columns]))

    def next(self, arm: str, labelled: list[int], logits: np.ndarray, count: int, seed: int):
        """`count` further rows."""
        known = np.array([self.position[row] for row in labelled])
        free = np.setdiff1d(np.arange(len(self.pool)), known)
        if arm == "random":
            rng = np.random.default_rng([seed, len(labelled)])
            return self.pool[rng.choice(free, count, replace=False)].tolist()
        embeddings = self.views.frozen[:: self.learner.augment.views].numpy()
        scores = expit(logits.astype(float))
        scores[:, -1] = 1 - scores[:, -1]
        labels = self.table.labels[labelled]
        pool = Pool(
            evidence=np.column_stack([logits[free, :-1], scores[free, -1]]),
            scores=scores[free],
            features=embeddings[free],
            known=embeddings[known],
            thresholds=np.full(scores.shape[1], FINDING_THRESHOLD),
            labelled=np.append(labels.sum(axis=0), (~labels.any(axis=1)).sum()),
            found=(scores > FINDING_THRESHOLD).sum(axis=0),
        )
        return self.pool[free[[pick.row for pick in choose(pool, count)]]].tolist()


def run(bench: Bench, shots: int, count: int, rounds: int, seeds: list[int]) -> None:
    """All seeds of both arms; prints a table."""
    starts = [[int(row) for row in draw_support(bench.table, shots, seed)] for seed in seeds]
    labelled = [list(start) for _ in ARMS for start in starts]
    every = seeds * len(ARMS)
    auroc = np.zeros((rounds + 1, len(ARMS), len(seeds)))
    rarest = int(bench.table.labels[bench.pool].sum(axis=0).argmin())
    name = bench.table.categories[rarest].replace("_", " ")
    total = int(bench.table.labels[bench.pool, rarest].sum())
    print(f"{len(bench.pool):,} images in the pool, {total} of them with {name}; macro AUROC of")
    print(f"{len(bench.test):,} test images, per cent, mean of {len(seeds)} seeds (95 % interval)")
    print(f"{'labels':>12s} {'suggest':>21s} {'random':>21s} {'difference':>24s}   with {name}")
    for number in range(rounds + 1):
        # Both arms start with the same fits, and only one looks at what they say of the pool.
        fits = len(seeds) if number == 0 else len(every)
        choosing = len(seeds) if number < rounds else 0
        test, pool = bench.fit(labelled[:fits], every[:fits], choosing)
        test = np.concatenate([test] * (len(every) // fits))
        for k, logits in enumerate(test):
            auroc[number, k // len(seeds), k % len(seeds)] = bench.auroc(logits)
        spent = np.array([len(rows) for rows in labelled]).reshape(len(ARMS), -1)
        with_rarest = [bench.table.labels[rows, rarest].sum() for rows in labelled]
        found = np.array(with_rarest).reshape(len(ARMS), -1).mean(axis=1)
        cells = [shown(auroc[number, arm]) for arm in range(len(ARMS))]
        cells.append(shown(auroc[number, 0] - auroc[number, 1], sign="+"))
        print(
            f"{spent.mean():12.0f} {cells[0]:>21s} {cells[1]:>21s} {cells[2]:>24s}   "
            f"{found[0]:.1f}, {found[1]:.1f}",
            flush=True,
        )
        if number < rounds:
            for k, seed in enumerate(every):
                arm = ARMS[k // len(seeds)]
                labelled[k] += bench.next(arm, labelled[k], pool[k % len(pool)], count, seed)


def shown(values: np.ndarray, sign: str = "") -> str:
    """The mean of values (S,) in per cent, and its interval."""
    found = over_seeds(values / 100)
    mean, low, high = (100 * value for value in (found.mean, *found.interval))
    return f"{mean:{sign}z.1f} ({low:{sign}z.1f} to {high:{sign}z.1f})"


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of ODIR-5K; phantoms without.")] = None,
    backbone: Annotated[str, typer.Option(help="Backbone, e.g. a folder.")] = "phantom",
    shots: Annotated[int, typer.Option(help="Shots of the first support.")] = 2,
    count: Annotated[int, typer.Option(help="Images labelled in each round.")] = 24,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 4,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 8,
    views: Annotated[int, typer.Option(help="Views of each labelled image.")] = 4,
) -> None:
    """Label a pool round by round, as suggested and at random."""
    begin = time.monotonic()
    loaded = load_backbone(BackboneConfig(model=backbone), "cpu")
    learner = LearnerConfig(augment=AugmentConfig(views=views))
    catalog = load_catalog("fundus" if data else "phantoms")
    pixels, table = fundus(data, catalog, loaded) if data else phantoms()
    bench = Bench(loaded, learner.chosen_signs(catalog), learner, pixels, table)
    print(f"encoded in {time.monotonic() - begin:.0f} s", flush=True)
    run(bench, shots, count, rounds, list(range(seeds)))
    print(f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    typer.run(main)
