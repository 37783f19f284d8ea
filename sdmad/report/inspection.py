"""The parts of the report that need the detector and the archive: audit, heatmap, example images.

inspection = inspect(test)
inspection.audit, inspection.heatmap, inspection.clear, inspection.located
"""

from dataclasses import dataclass, field

import numpy as np

from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.evaluation.audit import SignAudit, audit
from sdmad.evaluation.measure import ScoredTest
from sdmad.evaluation.protocols import auroc
from sdmad.inputs.shots import in_words
from sdmad.report import examples
from sdmad.report.examples import Example
from sdmad.report.heatmaps import Heatmap, sign_heatmap
from sdmad.report.localised import LocalisedSign, localised_gallery
from sdmad.report.masked import MaskSection, mask_section
from sdmad.report.nearest import NearestSupport, nearest_supports
from sdmad.words import counted

SHOWN_DIGESTS = 3


@dataclass(frozen=True)
class Inspection:
    """Sign audit, sign heatmap, example images, and for these by their names the maps of signs and
    the nearest support images.

    `images_read` is the number of images behind the heatmap; `catalog`, `modality` and `support`
    say in words what the detector was made with. Without the detector everything is empty, without
    the archive only the audit is there; `note` then gives the reason.
    """

    note: str = ""
    audit: SignAudit | None = None
    images_read: int = 0
    heatmap: Heatmap | None = None
    clear: list[Example] = field(default_factory=list)
    uncertain: list[Example] = field(default_factory=list)
    located: dict[str, list[LocalisedSign]] = field(default_factory=dict)
    masks: MaskSection | None = None
    nearest: dict[str, list[NearestSupport]] = field(default_factory=dict)
    catalog: str = ""
    modality: str = ""
    support: str = ""

    @property
    def num_unlocated(self) -> int:
        """Number of examples without sign maps because time ran out."""
        return sum(e.name not in self.located for e in (*self.clear, *self.uncertain) if e.signs)


def inspect(test: ScoredTest) -> Inspection:
    """Load the detector of a scored test and read the images that the report shows.

    Similarities are measured only on images chosen by label, not on the clear and uncertain cases:
    these are chosen by score and would bias the audit's `test_auroc`.
    """
    uri = test.metadata["detector_uri"]
    try:
        detector = Detector.load(uri)
    except UserError as error:
        return Inspection(note=f"Not shown: {error}.")
    if detector.digest != test.metadata["detector"]:
        return Inspection(note=f"Not shown: the detector at {uri} did not make these scores.")
    groups = examples.heatmap_rows(test)
    clear_rows = examples.clear_rows(test)
    uncertain_rows = examples.uncertain_rows(test, clear_rows)
    wanted = np.unique(np.concatenate([*groups.values(), clear_rows, uncertain_rows]))
    try:
        pixels = examples.read_pixels(test, wanted, detector)
    except (UserError, FileNotFoundError):
        pixels = {}
    measured = np.unique(np.concatenate(list(groups.values())))
    similarities = examples.similarities(test, detector, pixels, measured)
    result = audit(
        detector,
        test.rows,
        test.truth,
        similarities,
        support_auc=detector.rule.support_auc.cpu().numpy(),
    )
    if not pixels:
        note = "Not shown: no test image could be read from the archive."
        return Inspection(
            note=note,
            audit=result,
            catalog=detector.catalog.name.replace("_", " "),
            modality=detector.catalog.modality,
            support=_support(detector),
        )
    clear, uncertain = (
        examples.gallery(test, rows, pixels) for rows in (clear_rows, uncertain_rows)
    )
    shown = [pixels[row] for row in (*clear_rows, *uncertain_rows) if row in pixels]
    return Inspection(
        audit=result,
        images_read=len(pixels.keys() & set(measured)),
        heatmap=_heatmap(detector, groups, similarities, test.truth),
        catalog=detector.catalog.name.replace("_", " "),
        modality=detector.catalog.modality,
        support=_support(detector),
        clear=clear,
        uncertain=uncertain,
        located=localised_gallery(detector, [*clear, *uncertain], shown),
        masks=mask_section(test, detector),
        nearest=nearest_supports(detector, uri, [*clear, *uncertain], shown),
    )


def _heatmap(
    detector: Detector,
    groups: dict[str, np.ndarray],
    similarities: np.ndarray,
    truth: np.ndarray,
) -> Heatmap | None:
    """The sign heatmap of the groups with readable images; None without any.

    From each similarity the mean over signs in that image is subtracted: it is what makes an image
    resemble all signs. The images of a group are compared with those read that lack its label.
    """
    catalog = detector.catalog
    members = dict(zip(catalog.category_names, catalog.membership, strict=True))
    members["normal"] = catalog.normal_membership
    read = np.isfinite(similarities).all(axis=1)
    own = similarities - similarities.mean(axis=1, keepdims=True)
    labelled = dict(zip(catalog.category_names, truth.T, strict=True))
    labelled["normal"] = ~truth.any(axis=1)
    separated: dict[str, np.ndarray] = {}
    for name, rows in groups.items():
        inside = rows[read[rows]]
        if not len(inside):
            continue
        images = np.concatenate([inside, np.flatnonzero(read & ~labelled[name])])
        positive = np.arange(len(images)) < len(inside)
        separated[name] = np.array([auroc(positive, of_sign[images]) for of_sign in own.T])
    if not separated:
        return None
    return sign_heatmap(
        np.stack(list(separated.values()), axis=1),
        np.stack([members[name] for name in separated], axis=1),
        catalog.sign_names,
        list(separated),
    )


def _support(detector: Detector) -> str:
    """The supports in words, for the provenance of the report."""
    digests = ", ".join(detector.support_digests[:SHOWN_DIGESTS])
    more = len(detector.support_digests) - SHOWN_DIGESTS
    return (
        f"{in_words(detector.provenance.shots)}, seeds {', '.join(map(str, detector.seeds))}, "
        f"{counted(detector.provenance.support_images, 'image')} in the first; digests {digests}"
        + (f" and {more} more" if more > 0 else "")
    )
