"""The detector: images in, scores with findings and the signs behind them out.

    detector = Detector.load("runs/odir/train/fits/shots=4")
    scores = detector.score([Image.open("eye.jpg")])
    scores.anomaly, scores.findings[0], scores.signs[0]

All seeds of a training run score together in one pass: the frozen part of the backbone runs once
for each image, the adapted part once for each seed. The frozen part is a copy of the tower in half
precision on GPUs, and a packed one (`sdmad.backbones.packed`) on CPUs where that is faster. No Ray
involved.
"""

import copy
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdmad import storage
from sdmad.archive.decode import decode, prepare
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.backbones.packed import packing_pays
from sdmad.backbones.precision import Precision, half_type
from sdmad.backbones.towers import Activations
from sdmad.errors import UserError
from sdmad.fits import Fit, deserialize, find_detector, restore
from sdmad.inputs.catalog import Catalog
from sdmad.method.model import SignModel
from sdmad.method.selection import SelectionConfig

FINDING_THRESHOLD = 0.5
SIGNS_PER_FINDING = 3
TENSORS = ("f_in", "f_frozen", "patches")  # Of `Activations`, a row for each image.
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class SignEvidence:
    """A sign that carries a finding; `similarity` is its mean cosine with the image over seeds."""

    category: str
    sign: str
    similarity: float


@dataclass(frozen=True)
class Scores:
    """Scores of B images over C categories and S seeds; all numbers float32 in [0, 1].

    `anomaly` (B,) and `categories` (B, C) are means over seeds, `spread` (B, C) standard
    deviations, `seeds` (B, C, S) the single values; `similarities` (B, M) are mean cosines of the
    adapted image with all signs.
    """

    anomaly: np.ndarray
    categories: np.ndarray
    spread: np.ndarray
    seeds: np.ndarray
    similarities: np.ndarray
    findings: list[list[str]]
    uncertain: list[list[str]]
    signs: list[list[SignEvidence]]


def anomaly_score(probabilities: np.ndarray, axis: int) -> np.ndarray:
    """max_c p_c over the categories' axis [choice: docs/method.md compares it with a noisy or]."""
    return probabilities.max(axis=axis)


class Detector:
    """A backbone, a catalog and the fits of one or more seeds."""

    def __init__(self, backbone: Backbone, fits: list[Fit], precision: Precision = "auto") -> None:
        first = fits[0].provenance
        self.half = half_type(backbone.device, precision)
        self.packs = backbone.device.type == "cpu" and packing_pays(self.half or torch.float32)
        self.backbone = backbone
        self.catalog: Catalog = first.catalog
        self.provenance = first
        self.num_seeds = len(fits)
        self.seeds = [fit.provenance.seed for fit in fits]
        self.digest = hashlib.sha256("".join(f.digest for f in fits).encode()).hexdigest()[:16]
        self.selection: SelectionConfig = first.learner.selection
        self.model = SignModel(backbone, self.catalog, first.learner.adapter, len(fits))
        self.rule = restore(fits, self.model)
        with torch.inference_mode():
            self.sign_embeddings = self.model.sign_embeddings()

    @staticmethod
    def load(
        uri: str,
        device: str | None = None,
        backbone: str | None = None,
        precision: Precision = "auto",
    ) -> "Detector":
        """Load every seed at `uri` (a fit, a shots folder or a training run) and its backbone.

        `backbone` replaces the place of the weights that the fits name (a checkpoint file that
        has moved). Raises `UserError` when there is no detector, its fits do not belong together,
        the backbone is another one, or the device is no good for the precision.
        """
        fits = load_fits(uri)
        known = fits[0].provenance
        config = known.backbone
        if backbone is not None:
            config = known.identity.moved(config, backbone)
        loaded = load_backbone(config, device)
        difference = known.identity.difference(loaded.identity)
        if difference:
            raise UserError(
                f"the detector {uri} was fitted to another backbone than {config}: {difference}; "
                "give the backbone it was fitted to, or fit again"
            )
        return Detector(loaded, fits, precision)

    @cached_property
    def scorer(self) -> SignModel:
        """The model as it scores: its tower packed, or in half precision. Made for the first batch:
        a driver, which only asks for names and sizes, does without."""
        tower = self.backbone.image
        if self.packs:
            tower = tower.packed(self.half or torch.float32)
        elif self.half is not None:
            tower = tower.cast(self.half)
        scorer = copy.copy(self.model)
        scorer.backbone = replace(self.backbone, image=tower)
        return scorer

    @property
    def spec(self) -> ImageSpec:
        return self.backbone.spec

    def score(
        self, images: Sequence[Image.Image | np.ndarray | bytes], batch_size: int = 64
    ) -> Scores:
        """Score encoded images (bytes), PIL images, or uint8 arrays (H, W), (H, W, 3) of any size.

        Bytes, and files as `Image.open` returns them, get exactly the numbers of the job. Raises
        `sdmad.archive.limits.DecodeError` for bytes that are no image, or several (frames).
        """
        if len(images) == 0:
            raise ValueError("no images to score")
        pixels = [self._fit(image) for image in images]
        parts = [
            self.score_pixels(np.stack(pixels[start : start + batch_size]))
            for start in range(0, len(pixels), batch_size)
        ]
        return concatenate(parts)

    def _fit(self, image: Image.Image | np.ndarray | bytes) -> np.ndarray:
        if isinstance(image, bytes):
            return decode(image, self.spec)
        return prepare(
            image if isinstance(image, Image.Image) else Image.fromarray(image), self.spec
        )

    @torch.inference_mode()
    def score_pixels(self, pixels: np.ndarray) -> Scores:
        """Score one batch that already has the backbone's size: (B, height, width, 3) uint8."""
        activations, frozen = self._frozen_part(self.backbone.pixels(pixels))
        # Half precision is for the frozen part only.
        adapted = self.scorer if self.half is None else self.model
        readings = adapted.read(activations, frozen, self.sign_embeddings)
        weight = self.provenance.learner.zero_shot_weight
        logits, shares = self.rule.evidence(self.model, readings, self.selection, weight)
        plain, _ = self.rule.evidence(self.model, readings, SelectionConfig(mode="none"), weight)
        p = torch.sigmoid(logits)
        unselected = torch.sigmoid(plain).mean(0)
        return self._collect(p, unselected, shares, readings.similarities)

    def _frozen_part(self, images: torch.Tensor) -> tuple[Activations, torch.Tensor]:
        """Activations and unit embeddings (B, E) of normalised images, in single precision again.

        Images whose numbers are too large for half precision are computed in single.
        """
        activations, frozen = self.scorer.image_activations(images, lean=True)
        if self.half is None:
            return activations, frozen
        tensors = {name: getattr(activations, name).float() for name in TENSORS}
        lost = (~torch.isfinite(frozen).all(-1)).nonzero()[:, 0]
        if len(lost):
            again, embeddings = self.model.image_activations(images[lost], lean=True)
            frozen[lost] = embeddings
            for name, tensor in tensors.items():
                tensor[lost] = getattr(again, name)
        return replace(activations, **tensors), frozen

    def _collect(
        self, p: torch.Tensor, unselected: torch.Tensor, shares: torch.Tensor, z: torch.Tensor
    ) -> Scores:
        mean = p.mean(0)
        band = self.rule.band.mean(0)
        found = mean > FINDING_THRESHOLD
        doubtful = (mean > band[:, 0]) & (mean < band[:, 1])
        doubtful |= found != (unselected > FINDING_THRESHOLD)
        contribution = torch.softmax(shares, dim=-1).mean(0).cpu().numpy()  # (B, C, M)
        similarities = z.mean(0).cpu().numpy()
        names = self.catalog.category_names
        found_rows, doubtful_rows = found.cpu().numpy(), doubtful.cpu().numpy()
        seeds = p.permute(1, 2, 0).cpu().numpy()
        return Scores(
            anomaly=anomaly_score(seeds, axis=1).mean(-1),
            categories=mean.cpu().numpy(),
            spread=p.std(0, correction=0).cpu().numpy(),
            seeds=seeds,
            similarities=similarities,
            findings=[[names[c] for c in np.flatnonzero(row)] for row in found_rows],
            uncertain=[[names[c] for c in np.flatnonzero(row)] for row in doubtful_rows],
            signs=self._carrying(found_rows, contribution, similarities),
        )

    def _carrying(
        self, found: np.ndarray, shares: np.ndarray, similarities: np.ndarray
    ) -> list[list[SignEvidence]]:
        """For each of B images the signs that carry its findings, of each the largest share first.

        `found` (B, C), `shares` (B, C, M) of the evidence, `similarities` (B, M).
        """
        names, categories = self.catalog.sign_names, self.catalog.category_names
        images, cells = np.nonzero(found)
        theirs = shares[images, cells]  # A row for each finding, as below.
        order = np.argsort(-theirs, axis=-1, kind="stable")[:, :SIGNS_PER_FINDING]
        carries = np.take_along_axis(theirs, order, axis=-1) >= LEAST_SHARE
        near = np.take_along_axis(similarities[images], order, axis=-1)
        evidence: list[list[SignEvidence]] = [[] for _ in found]
        for finding, rank in np.argwhere(carries).tolist():
            evidence[images[finding]].append(
                SignEvidence(
                    categories[cells[finding]],
                    names[order[finding, rank]],
                    float(near[finding, rank]),
                )
            )
        return evidence


def load_fits(uri: str) -> list[Fit]:
    """Read the fits of a detector and check that they belong together; `UserError` if not."""
    uris = find_detector(uri)
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(storage.read_bytes, uris))
    fits = [deserialize(content, uri) for content, uri in zip(contents, uris, strict=True)]
    first = fits[0].provenance
    for fit, fit_uri in zip(fits, uris, strict=True):
        for field in ("identity", "catalog", "learner"):
            if getattr(fit.provenance, field) != getattr(first, field):
                raise UserError(
                    f"the fits at {uri} do not belong together: {fit_uri} has another "
                    f"{field.replace('_', ' ')} than {uris[0]}"
                )
    return fits


def concatenate(parts: list[Scores]) -> Scores:
    """The scores of several batches as those of one."""
    joined: dict[str, Any] = {}
    for name in ("anomaly", "categories", "spread", "seeds", "similarities"):
        joined[name] = np.concatenate([getattr(part, name) for part in parts])
    for name in ("findings", "uncertain", "signs"):
        joined[name] = [row for part in parts for row in getattr(part, name)]
    return Scores(**joined)
