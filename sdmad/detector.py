"""The detector: from images to scores, findings and the signs behind the findings.

    detector = Detector.load("runs/odir/train/fits/shots=4")
    scores = detector.score("eye.jpg")           # or many: paths, PIL images, arrays, an iterator
    scores[0].findings, scores[0].signs, scores.to_pandas()

All seeds of a training run score in one pass: the frozen part of the backbone runs once for each
image, the adapted part once for each seed. The frozen part runs in half precision on GPUs, and with
prepacked weights (`sdmad.backbones.packed`) on CPUs where that is faster. Ray is not needed.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch

from sdmad.archive.pictures import Picture, pictures
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.encoder import ImageEncoder
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.backbones.precision import Precision
from sdmad.backbones.towers import Activations
from sdmad.errors import UserError
from sdmad.fits import Fit, fits_digest, load_fits, restore
from sdmad.inputs.catalog import Catalog
from sdmad.inputs.shots import in_words
from sdmad.method.calibration import undecided
from sdmad.method.decision import Decision
from sdmad.method.model import Evidence, SignModel
from sdmad.method.selection import SelectionConfig
from sdmad.method.threshold import FINDING_THRESHOLD as FINDING_THRESHOLD
from sdmad.scores import FindingEvidence, Scores, SignEvidence, concatenate

SIGNS_PER_FINDING = 3
LEAST_SHARE = 0.1  # Of the evidence for a finding, below which only the largest sign is named.


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
        self.digest = fits_digest(fits)
        self.support_digests = [fit.provenance.support_digest for fit in fits]
        self.selection: SelectionConfig = first.learner.selection
        self.model = SignModel(backbone, self.catalog, adapter, len(fits))
        self.rule = restore(fits, self.model)
        # Whose findings have signs and evidence; scores are not changed by it.
        self.decision: Decision | None = None
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
        return self.provenance.spec

    @property
    def categories(self) -> list[str]:
        """Names of the categories, in the order of `Scores.categories`."""
        return self.catalog.category_names

    @property
    def signs(self) -> list[str]:
        """Names of the signs, in the order of `Scores.similarities`."""
        return self.catalog.sign_names

    def __repr__(self) -> str:
        known, seeds = self.provenance, ", ".join(map(str, self.seeds))
        return (
            f"<Detector of {len(self.categories)} categories ({', '.join(self.categories)}) by "
            f"{len(self.signs)} signs; {in_words(known.shots)}, seeds {seeds}; {known.backbone} on "
            f"{self.backbone.device}>"
        )

    def score(self, images: Picture | Iterable[Picture], batch_size: int = 64) -> Scores:
        """Score one image or many, of any size.

        An image is a path or `s3://` URI (with `#frame=<number>` for one frame of several),
        encoded bytes, a PIL image, or an array: uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4),
        or uint16 (H, W). Not taken are arrays of floats and arrays with the channels first. Files,
        bytes and images opened by `Image.open` get exactly the scores of the scoring job. Of an
        iterator, only `batch_size` images are in memory at a time.

        Raises `sdmad.archive.limits.DecodeError` for a file that is not an image or has several
        frames, `UserError` for one that does not exist, `TypeError` or `ValueError` for other
        arguments.
        """
        parts = []
        given = pictures(images)
        while batch := list(islice(given, batch_size)):
            scores = self.score_pixels(np.stack([one.pixels(self.spec) for one in batch]))
            parts.append(replace(scores, names=[one.name for one in batch]))
        if not parts:
            raise ValueError("no images to score")
        return concatenate(parts)

    def pixels(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """What the backbone sees of images as `score` takes them: (B, height, width, 3) uint8."""
        found = [one.pixels(self.spec) for one in pictures(images)]
        return np.stack(found) if found else np.zeros((0, *self.spec.size, 3), np.uint8)

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

    def patch_features(self, pixels: np.ndarray) -> np.ndarray:
        """The features (B, D) of one batch that the patch probe reads, of uint8 images
        (B, height, width, 3) at the backbone's size: the maximum of each channel over patches."""
        patches = self.encoder(pixels)[0].patches
        return patches.reshape(-1, len(pixels), patches.shape[-1])[0].float().cpu().numpy()

    def _collect(
        self, evidence: Evidence, unselected: torch.Tensor, similarities: torch.Tensor
    ) -> Scores:
        p = torch.sigmoid(evidence.logits)
        mean = p.mean(0)
        logits = evidence.logits.mean(0).cpu().numpy()
        found = self._found(mean, logits)
        uncertain = undecided(evidence.logits, self.rule.thresholds).float().mean(0) > 0.5
        uncertain |= found != (unselected > FINDING_THRESHOLD)
        carried = evidence.signs[..., :-1].mean(0)
        shares = evidence.shares().mean(0) * (carried > 0)[..., None]
        names = self.catalog.category_names
        found_rows, uncertain_rows = found.cpu().numpy(), uncertain.cpu().numpy()
        anomaly = torch.sigmoid(evidence.anomaly)
        z = similarities.mean(0).cpu().numpy()
        parts = torch.stack([carried, evidence.appearance[..., :-1].mean(0)], -1).cpu().numpy()
        return Scores(
            category_names=tuple(names),
            sign_names=tuple(self.signs),
            names=[str(row) for row in range(len(mean))],
            anomaly=anomaly.mean(0).cpu().numpy(),
            anomaly_logits=evidence.anomaly.mean(0).cpu().numpy(),
            anomaly_seeds=anomaly.T.cpu().numpy(),
            categories=mean.cpu().numpy(),
            logits=logits,
            spread=p.std(0, correction=0).cpu().numpy(),
            seeds=p.permute(1, 2, 0).cpu().numpy(),
            similarities=z,
            findings=[[names[c] for c in np.flatnonzero(row)] for row in found_rows],
            uncertain=[[names[c] for c in np.flatnonzero(row)] for row in uncertain_rows],
            signs=self._name_signs(found_rows, shares.cpu().numpy(), z),
            evidence=[
                [FindingEvidence(names[c], *map(float, logits[c])) for c in np.flatnonzero(row)]
                for row, logits in zip(found_rows, parts, strict=True)
            ],
        )

    def _found(self, mean: torch.Tensor, logits: np.ndarray) -> torch.Tensor:
        """Whether each category is found, bool (B, C), from means of scores and of logits."""
        if self.decision is None:
            return mean > FINDING_THRESHOLD
        scores = self.decision.scores(logits, mean.cpu().numpy())
        return torch.from_numpy(self.decision.found(scores)).to(mean.device)

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
        ranked = np.take_along_axis(by_finding, order, axis=-1)
        named = ranked >= LEAST_SHARE
        named[:, :1] |= ranked[:, :1] > 0
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
