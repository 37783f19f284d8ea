"""One rank of a training run: it makes its share of the fits and writes each when it is done."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import torch

from sdmad import logs, storage
from sdmad.archive.preprocess import InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.fits import Provenance, fit_uri, serialize
from sdmad.fitting.encoded import Chosen
from sdmad.fitting.reading import Image, fetch
from sdmad.fitting.refit import up_to_date
from sdmad.inputs.catalog import Catalog
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.shots import Shots, key
from sdmad.inputs.support import draw_support, support_digest
from sdmad.method.augment import SupportImages
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.runtime.cluster import node_cpus


@dataclass(frozen=True)
class SupportRef:
    """The support of one fit by name: images as (archive, member), and labels (N, C).

    `shots` is the name of the shots, `sdmad.inputs.shots.key`; `asked` are the shots themselves.
    """

    shots: int | str
    seed: int
    images: list[tuple[str, str]]
    labels: np.ndarray
    asked: Shots

    @staticmethod
    def draw(labels: LabelTable, shots: Shots, seed: int) -> "SupportRef":
        """Draw the support of one fit from the pool of a label table."""
        rows = draw_support(labels, shots, seed)
        names = zip(labels.archive[rows].tolist(), labels.member[rows].tolist(), strict=True)
        return SupportRef(key(shots), seed, list(names), labels.labels[rows], shots)

    def with_pixels(self, pixels: dict[tuple[str, str], np.ndarray]) -> SupportImages:
        """The support with its pixels; `pixels` has at least its images, by (archive, member)."""
        return SupportImages(
            shots=self.shots,
            seed=self.seed,
            keys=["\x1f".join(image) for image in self.images],
            pixels=np.stack([pixels[image] for image in self.images]),
            labels=self.labels,
        )

    def with_activations(self, chosen: Chosen, backbone: Backbone) -> SupportImages:
        """The support with stored activations; `chosen` has at least its images."""
        return SupportImages(
            shots=self.shots,
            seed=self.seed,
            keys=["\x1f".join(image) for image in self.images],
            pixels=np.zeros((len(self.images), 0, 0, 3), np.uint8),
            labels=self.labels,
            encoded=chosen.restore(self.images, backbone.image, backbone.device),
        )

    @property
    def digest(self) -> str:
        """That of `sdmad.inputs.support.support_digest`."""
        return support_digest(self.images, self.labels)


@dataclass(frozen=True)
class FitTask:
    """What every rank gets.

    `pixels` is for `fitting.reading.fetch`; `encoded`, a Ray reference to `Chosen`, takes its place
    where activations are stored.
    """

    batches: list[list[SupportRef]]
    pixels: dict[Image, Any]
    output: str
    backbone: BackboneConfig
    catalog: Catalog
    learner: LearnerConfig
    input: InputConfig
    device: str | None
    encoded: Any = None


def fit_loop(settings: dict[str, Any]) -> None:
    """One of W ranks: it fits every W-th batch. All ranks report after each round, as a barrier."""
    logs.quieten()
    task: FitTask = settings["task"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    share_cores()
    backbone = load_backbone(task.backbone, task.device)
    for first in range(0, len(task.batches), world):
        mine = task.batches[first + rank] if first + rank < len(task.batches) else []
        done = up_to_date(task.output, {(s.shots, s.seed): s.digest for s in mine})
        todo = [s for s in mine if (s.shots, s.seed) not in done]
        if todo:
            _fit_and_write(todo, task, backbone)
        ray.train.report({"round": first // world, "fits": len(todo)})


def share_cores() -> None:
    """Set this rank's threads to its share of the CPUs that Ray has on its node."""
    ranks = ray.train.get_context().get_local_world_size()
    torch.set_num_threads(max(1, node_cpus() // ranks))


def _fit_and_write(todo: list[SupportRef], task: FitTask, backbone: Backbone) -> None:
    if task.encoded is None:
        pixels = fetch((image for support in todo for image in support.images), task.pixels)
        supports = [support.with_pixels(pixels) for support in todo]
    else:
        chosen = ray.get(task.encoded)
        supports = [support.with_activations(chosen, backbone) for support in todo]
    model, rule = fit_batch(backbone, task.catalog, supports, task.learner)
    for index, support in enumerate(todo):
        provenance = Provenance.of(
            backbone,
            catalog=task.catalog,
            input=task.input,
            learner=task.learner,
            shots=support.asked,
            seed=support.seed,
            support_images=len(support.images),
            support_digest=support.digest,
            source="images" if task.encoded is None else "activations",
        )
        uri = fit_uri(task.output, support.shots, support.seed)
        storage.write_bytes(uri, serialize(model, rule, index, provenance))
