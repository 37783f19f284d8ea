"""Images of a scored archive unlike anything in the support: out of distribution.

    found = unlike_support(Search.open(activations), detector_uri)
    found.beyond, found.images, found.farthest

An image is compared with all support images by the cosine of frozen embeddings; the largest counts.
What is far is measured on the support itself: for each of its images, the largest cosine with
support images of other patients. An image is beyond the support if its cosine is lower than that of
95 % of support images (of fewer than 40, than that of each).
"""

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sdmad.archive.selected import decode_members
from sdmad.errors import UserError
from sdmad.fits import load_fits
from sdmad.fitting.supports import draw_again
from sdmad.scoring.similar import THREADS, Search

BY_CHANCE = 0.05
MOST_SUPPORT = 2048
LEAST_SUPPORT = 8


@dataclass(frozen=True)
class Far:
    """An image far from the support: its largest cosine, its work unit, and its URI."""

    cosine: float
    unit: str
    uri: str


@dataclass(frozen=True)
class Unlike:
    """How many of `images` are `beyond` the support, and the farthest, farthest first.

    `expected` is the share that would be beyond if the images were like the support. `seeds_left`
    is the number of seeds whose support could not be drawn again.
    """

    support_images: int
    seeds_left: int
    threshold: float
    expected: float
    images: int
    beyond: int
    farthest: list[Far]

    @property
    def share(self) -> float:
        return self.beyond / max(1, self.images)


def unlike_support(search: Search, detector: str, most: int, units: Sequence[str]) -> Unlike:
    """Compare the activations of `units` with the support of `detector`; lists `most` images.

    Memory does not grow with their number. Raises `UserError` if the support cannot be read.
    """
    support, patients, left = _support(search, detector)
    threshold, expected = far_from_others(support, patients)

    def of_unit(unit: str) -> tuple[int, int, list[Far]]:
        images = beyond = 0
        far: list[Far] = []
        for uris, embeddings in search.batches(unit):
            cosines = (embeddings @ support.T).max(axis=1)
            images += len(cosines)
            beyond += int((cosines < threshold).sum())
            few = np.argsort(cosines, kind="stable")[:most]
            far = _farthest(
                far + [Far(float(cosines[k]), unit, uris[k].as_py()) for k in few], most
            )
        return images, beyond, far

    images = beyond = 0
    farthest: list[Far] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for count, past, far in pool.map(of_unit, units):
            images, beyond = images + count, beyond + past
            farthest = _farthest(farthest + far, most)
    return Unlike(len(support), left, threshold, expected, images, beyond, farthest)


def far_from_others(support: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """The cosine below which an image is beyond the support, and the share expected there.

    `support` (N, E) are unit embeddings. Each image is compared with those of other patients.
    """
    cosines = support @ support.T
    cosines[patients[:, None] == patients[None]] = -np.inf
    nearest = np.sort(cosines.max(axis=1))
    nearest = nearest[np.isfinite(nearest)]
    if len(nearest) < LEAST_SUPPORT:
        raise UserError(
            f"the support has {len(nearest)} images of different patients; {LEAST_SUPPORT} are "
            "needed to say what is unlike it"
        )
    rank = max(1, int(BY_CHANCE * (len(nearest) + 1)))
    return float(nearest[rank - 1]), rank / (len(nearest) + 1)


def _support(search: Search, uri: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Unit embeddings (N, E) of the support images of all seeds, their patients, and the number of
    seeds without them."""
    fits = load_fits(uri)
    known = [fit.provenance for fit in fits]
    drawn = draw_again(uri, known[0], [k.seed for k in known], [k.support_digest for k in known])
    images = sorted({image for support in drawn.supports for image in support.images})
    if not images:
        raise UserError(
            f"the support of the detector {uri} cannot be drawn again: the label table of its "
            "training run has changed"
        )
    images = images[:: -(-len(images) // MOST_SUPPORT)]
    pixels, _ = decode_members(drawn.archive, images, search.stored.spec)
    if not pixels:
        raise UserError(f"the support images cannot be read from {drawn.archive}")
    stacked = [pixels[image] for image in images if image in pixels]
    at_once = search.backbone.images_at_once
    embeddings = [
        search.backbone.embed_images(np.stack(stacked[start : start + at_once]))
        for start in range(0, len(stacked), at_once)
    ]
    labels = drawn.labels
    named = zip(labels.archive, labels.member, strict=True)
    patient = dict(zip(named, labels.patient, strict=True))
    patients = np.array([patient[image] for image in images if image in pixels], object)
    return (
        np.concatenate([part.cpu().numpy() for part in embeddings]),
        patients,
        len(fits) - len(drawn.supports),
    )


def _farthest(found: list[Far], most: int) -> list[Far]:
    return heapq.nsmallest(most, found, key=lambda far: (far.cosine, far.uri))
