"""The detector: from images to scores, findings and the signs behind the findings.

    detector = Detector.load("runs/odir/train/fits/shots=4")
    scores = detector.score([Image.open("eye.jpg")])
    scores.anomaly, scores.findings[0], scores.signs[0]

All seeds of a training run score in one pass: the frozen part of the backbone runs once for each
image, the adapted part once for each seed. The frozen part runs in half precision on GPUs, and with
prepacked weights (`sdmad.backbones.packed`) on CPUs where that is faster. Ray is not needed.
"""

import copy
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdmad import storage
from sdmad.archive.decode import decode, prepare
from sdmad.archive.limits import DecodeError, describe
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.encoder import ImageEncoder
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.backbones.precision import Precision
from sdmad.backbones.towers import Activations
from sdmad.errors import UserError
from sdmad.fits import Fit, deserialize, find_detector, restore
from sdmad.inputs.catalog import Catalog
from sdmad.method.calibration import undecided
from sdmad.method.model import Evidence, SignModel
from sdmad.method.selection import SelectionConfig

FINDING_THRESHOLD = 0.5
SIGNS_PER_FINDING = 3
LEAST_SHARE = 0.1  # Of the evidence for a finding, below which a sign is not named.

# What `Detector.score` takes.
Picture = bytes | str | os.PathLike[str] | Image.Image | np.ndarray


@dataclass(frozen=True)
class SignEvidence:
    """A sign of a finding, and its cosine similarity with the image (mean over seeds)."""

    category: str
    sign: str
    similarity: float


@dataclass(frozen=True)
class FindingEvidence:
    """What carries a finding: the parts of its logit from signs and from the patch probe.

    Means over seeds. A finding that signs do not carry (`sign_logit` at most 0) is one by
    appearance, and names no signs.
    """

    category: str
    sign_logit: float
    probe_logit: float


@dataclass(frozen=True)
class Scores:
    """Scores of B images, for C categories, M signs and S seeds; all arrays are float32.

    `seeds` (B, C, S) are the probabilities of each seed, `categories` (B, C) their means and
    `spread` (B, C) their standard deviations; `logits` (B, C) are means of their logits. `anomaly`
    (B,) is the anomaly score, in [0, 1] too, `anomaly_seeds` (B, S) that of each seed.
    `similarities` (B, M) are cosine similarities of the adapted image and the signs, mean over
    seeds. `findings`, `uncertain`, `signs` and `evidence` have one list for each image.
    """

    anomaly: np.ndarray
    anomaly_seeds: np.ndarray
    categories: np.ndarray
    logits: np.ndarray
    spread: np.ndarray
    seeds: np.ndarray
    similarities: np.ndarray
    findings: list[list[str]]
    uncertain: list[list[str]]
    signs: list[list[SignEvidence]]
    evidence: list[list[FindingEvidence]]


class Detector:
    """A backbone, a catalog and the fits of one or more seeds."""

    def __init__(self, backbone: Backbone, fits: list[Fit], precision: Precision = "auto") -> None:
        first = fits[0].provenance
        adapter = first.learner.adapter
        self.encoder = ImageEncoder(backbone, precision, adapter.image.blocks)
        self.backbone = backbone
        self.catalog: Catalog = first.catalog
        self.provenance = first
        self.num_seeds = len(fits)
        self.seeds = [fit.provenance.seed for fit in fits]
        self.digest = hashlib.sha256("".join(f.digest for f in fits).encode()).hexdigest()[:16]
        self.selection: SelectionConfig = first.learner.selection
        self.model = SignModel(backbone, self.catalog, adapter, len(fits))
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
        """Load all seeds at `uri` (a fit, a folder `shots=<k>` or a training run) and the backbone.

        `backbone` is the new place of the backbone's weights, a file or folder, if they have moved.
        Raises `UserError` if there is no detector, its fits do not belong together, the backbone
        has other weights than the fits need, or the device does not support the precision.
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
        """The model that scores images. Half precision is only for the frozen part."""
        if self.encoder.half is not None:
            return self.model
        scorer = copy.copy(self.model)
        scorer.backbone = self.encoder.fast
        return scorer

    @property
    def spec(self) -> ImageSpec:
        """What is done to pixels: the backbone's input, as the fits changed it."""
        return self.provenance.input.apply(self.backbone.spec)

    def score(self, images: Iterable[Picture], batch_size: int = 64) -> Scores:
        """Score images of any size.

        An image is encoded bytes, a path or `s3://` URI, a PIL image, or an array: uint8 (H, W),
        (H, W, 1), (H, W, 3) or (H, W, 4), or uint16 (H, W). Files, bytes and images opened by
        `Image.open` get exactly the scores of the scoring job. Raises
        `sdmad.archive.limits.DecodeError` for a file that is not an image or has several frames,
        `UserError` for one that does not exist, `TypeError` or `ValueError` for other arguments.
        """
        single = isinstance(images, (bytes, bytearray, str, os.PathLike, Image.Image))
        if single or (isinstance(images, np.ndarray) and _is_one_image(images)):
            raise TypeError("score takes a list of images; for one image write score([image])")
        given = list(images)
        if not given:
            raise ValueError("no images to score")
        pixels = [self._fit(image, row) for row, image in enumerate(given)]
        parts = [
            self.score_pixels(np.stack(pixels[start : start + batch_size]))
            for start in range(0, len(pixels), batch_size)
        ]
        return concatenate(parts)

    def _fit(self, image: Picture, row: int = 0) -> np.ndarray:
        """The pixels that the backbone takes; errors name the image by its position `row`."""
        if isinstance(image, (bytes, bytearray, memoryview)):
            return decode(bytes(image), self.spec)
        if isinstance(image, (str, os.PathLike)):
            return decode(storage.read_file(storage.resolve(os.fspath(image)), "image"), self.spec)
        if isinstance(image, np.ndarray):
            image = _from_array(image, row)
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"image {row} is of type {type(image).__name__}; give encoded bytes, a path, a PIL "
                "image or a NumPy array"
            )
        if 0 in image.size:
            raise ValueError(f"image {row} has no pixels: its size is {image.size}")
        try:
            return prepare(image, self.spec)
        except (OSError, SyntaxError) as error:
            raise DecodeError(f"image {row} is damaged: {describe(error)}") from None

    def score_pixels(self, pixels: np.ndarray) -> Scores:
        """Score one batch of uint8 images (B, height, width, 3) at the backbone's size."""
        activations, frozen = self.encoder(pixels)
        return self._score(self.scorer, activations, frozen)

    def score_activations(self, activations: Activations, frozen: torch.Tensor) -> Scores:
        """Score images of which the frozen part has been computed, as by `self.encoder`.

        `activations` are (B, T, D), `frozen` are unit embeddings (B, E).
        """
        return self._score(self.model, activations, frozen)

    @torch.inference_mode()
    def _score(self, model: SignModel, activations: Activations, frozen: torch.Tensor) -> Scores:
        readings = model.read(activations, frozen, self.sign_embeddings)
        learner = self.provenance.learner
        found = self.rule.evidence(self.model, readings, learner, self.selection)
        plain = self.rule.evidence(self.model, readings, learner, SelectionConfig(mode="none"))
        unselected = torch.sigmoid(plain.logits).mean(0)
        return self._collect(found, unselected, readings.similarities)

    def _collect(
        self, evidence: Evidence, unselected: torch.Tensor, similarities: torch.Tensor
    ) -> Scores:
        p = torch.sigmoid(evidence.logits)
        mean = p.mean(0)
        found = mean > FINDING_THRESHOLD
        uncertain = undecided(evidence.logits, self.rule.thresholds).float().mean(0) > 0.5
        uncertain |= found != (unselected > FINDING_THRESHOLD)
        carried = evidence.signs[..., :-1].mean(0)
        of_signs = torch.softmax(evidence.by_sign, dim=-1).mean(0)
        shares = (of_signs * (carried > 0)[..., None]).cpu().numpy()  # (B, C, M)
        names = self.catalog.category_names
        found_rows, uncertain_rows = found.cpu().numpy(), uncertain.cpu().numpy()
        anomaly = torch.sigmoid(evidence.anomaly)
        z = similarities.mean(0).cpu().numpy()
        parts = torch.stack([carried, evidence.appearance[..., :-1].mean(0)], -1).cpu().numpy()
        return Scores(
            anomaly=anomaly.mean(0).cpu().numpy(),
            anomaly_seeds=anomaly.T.cpu().numpy(),
            categories=mean.cpu().numpy(),
            logits=evidence.logits.mean(0).cpu().numpy(),
            spread=p.std(0, correction=0).cpu().numpy(),
            seeds=p.permute(1, 2, 0).cpu().numpy(),
            similarities=z,
            findings=[[names[c] for c in np.flatnonzero(row)] for row in found_rows],
            uncertain=[[names[c] for c in np.flatnonzero(row)] for row in uncertain_rows],
            signs=self._name_signs(found_rows, shares, z),
            evidence=[
                [FindingEvidence(names[c], *map(float, logits[c])) for c in np.flatnonzero(row)]
                for row, logits in zip(found_rows, parts, strict=True)
            ],
        )

    def _name_signs(
        self, found: np.ndarray, shares: np.ndarray, similarities: np.ndarray
    ) -> list[list[SignEvidence]]:
        """The signs named for each of B images: by finding, the largest share of evidence first.

        `found` (B, C), `shares` (B, C, M) of the evidence (0 where signs do not carry it),
        `similarities` (B, M).
        """
        signs, categories = self.catalog.sign_names, self.catalog.category_names
        images, columns = np.nonzero(found)
        by_finding = shares[images, columns]  # (findings, M)
        order = np.argsort(-by_finding, axis=-1, kind="stable")[:, :SIGNS_PER_FINDING]
        named = np.take_along_axis(by_finding, order, axis=-1) >= LEAST_SHARE
        cosines = np.take_along_axis(similarities[images], order, axis=-1)
        evidence: list[list[SignEvidence]] = [[] for _ in found]
        for finding, rank in np.argwhere(named).tolist():
            evidence[images[finding]].append(
                SignEvidence(
                    categories[columns[finding]],
                    signs[order[finding, rank]],
                    float(cosines[finding, rank]),
                )
            )
        return evidence


def _is_one_image(images: np.ndarray) -> bool:
    """Whether an array is a single image, and not a batch of images."""
    return images.ndim < 3 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4))


def _from_array(values: np.ndarray, row: int) -> Image.Image:
    """An array as an image; raises `TypeError` or `ValueError` that names it by its position."""
    shape, kind = values.shape, values.dtype
    if kind != np.uint8 and not (kind.kind == "u" and kind.itemsize == 2):
        raise TypeError(
            f"image {row} is an array of {kind}; give uint8 (0 to 255), or uint16 for one channel"
        )
    if values.size == 0:
        raise ValueError(f"image {row} has no pixels: its shape is {shape}")
    values = values[:, :, 0] if values.ndim == 3 and shape[2] == 1 else values
    if values.ndim == 2:
        return Image.fromarray(np.ascontiguousarray(values.astype(kind.newbyteorder("="))))
    if values.ndim == 3 and shape[2] in (3, 4) and kind == np.uint8:
        return Image.fromarray(np.ascontiguousarray(values))
    if values.ndim == 3 and shape[0] in (1, 3, 4):
        hint = "put the channels last, as in np.moveaxis(image, 0, -1)"
    elif values.ndim == 3 and kind != np.uint8:
        hint = "with several channels give uint8"
    else:
        hint = "give (height, width) or (height, width, 3)"
    raise ValueError(f"image {row} is an array of shape {shape}; {hint}")


def load_fits(uri: str) -> list[Fit]:
    """Read the fits of a detector; `UserError` if they do not belong together."""
    uris = find_detector(uri)
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(storage.read_bytes, uris))
    fits = [deserialize(content, uri) for content, uri in zip(contents, uris, strict=True)]
    first = fits[0].provenance
    for fit, fit_uri in zip(fits, uris, strict=True):
        for field in ("identity", "input", "catalog", "learner"):
            if getattr(fit.provenance, field) != getattr(first, field):
                raise UserError(
                    f"the fits at {uri} do not belong together: {fit_uri} has another "
                    f"{field.replace('_', ' ')} than {uris[0]}; keep each training run in its own "
                    "folder"
                )
    return fits


def concatenate(parts: list[Scores]) -> Scores:
    """Join the scores of several batches."""
    joined: dict[str, Any] = {}
    for field in fields(Scores):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            joined[field.name] = np.concatenate(values)
        else:
            joined[field.name] = [row for value in values for row in value]
    return Scores(**joined)
