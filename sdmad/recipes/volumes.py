"""Segmented volumes: BraTS (brain MRI) and LiTS (liver CT) as they are distributed, in NIfTI.

The image volumes are copied; every axial slice that shows enough of the organ is a row of the label
table, `<volume>#frame=<slice>`. Its label comes from the segmentation, which is not copied: in an
archive it would be scored as an image. Slices are numbered as `sdmad.archive.volumes` does it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdmad.archive.naming import frame_name
from sdmad.errors import UserError
from sdmad.recipes.records import Record, check_folder, draw_test, wrong_layout

LEAST_LESION = 25
"""Pixels of a lesion from which a slice is labelled with it."""
LEAST_ORGAN = 0.02
"""Share of a slice's pixels that the organ must cover."""
GAP = 2
"""Slices beside a lesion that are not taken as normal, because it may reach into them."""
SAME_PLACE = 0.5
"""Millimetres by which the corners of an image and of its segmentation may differ."""
NO_SEGMENTATION = "there is no segmentation beside the volume"
OTHER_GRID = "the segmentation has another grid than the volume"
LITTLE_ORGAN = "the slice shows little or nothing of the organ"
SMALL_LESION = f"the slice shows fewer than {LEAST_LESION} pixels of a lesion"
NEAR_LESION = f"a slice without lesion, at most {GAP} slices from one"

BRATS_LAYOUT = (
    "that of BraTS: a folder for each patient with BraTS2021_00000_flair.nii.gz (or -t2f, or .nii) "
    "and BraTS2021_00000_seg.nii.gz"
)
LITS_LAYOUT = "that of LiTS: volume-0.nii and segmentation-0.nii (or .nii.gz)"
_BRATS = re.compile(r"(?P<case>.+)[_-](?P<kind>flair|t2f|seg)\.nii(\.gz)?", re.IGNORECASE)
_LITS = re.compile(r"(?P<kind>volume|segmentation)-(?P<case>\d+)\.nii(\.gz)?", re.IGNORECASE)
# A time point behind the number of the patient: BraTS-GLI-00000-001.
_TIME_POINT = re.compile(r"(?<=\d)-\d{3}$")


@dataclass(frozen=True)
class Case:
    """A volume and its segmentation, if there is one."""

    name: str
    volume: Path
    segmentation: Path | None


def brats(source: Path) -> Iterator[Record]:
    """FLAIR volumes of BraTS in the layout of its challenges from 2020 on, one category.

    Every value of the segmentation above 0 is tumour (necrosis, oedema, enhancing tumour). The
    organ is where the skull-stripped image is not 0. Half of the patients are drawn for the test
    split; time points of one patient stay together. Raises `UserError` for another layout.

    Source: Baid et al., RSNA-ASNR-MICCAI BraTS 2021, arXiv 2107.02314.
    """
    cases = _cases(source, _BRATS, ("flair", "t2f"), "seg", BRATS_LAYOUT)
    patients = {case.name: _TIME_POINT.sub("", case.name) for case in cases}
    return _records(cases, patients, "glioma", _skull_stripped)


def lits(source: Path) -> Iterator[Record]:
    """CT volumes of LiTS, one category.

    In the segmentation 1 is liver and 2 is tumour. Half of the scans are drawn for the test split.
    The download does not say which scans are of one patient. Raises `UserError` for another layout.

    Source: Bilic et al., LiTS, Med Image Anal 2023;84:102680.
    """
    cases = _cases(source, _LITS, ("volume",), "segmentation", LITS_LAYOUT)
    patients = {case.name: f"lits-{case.name}" for case in cases}
    return _records(cases, patients, "liver_tumour", _segmented_liver)


def _skull_stripped(volume: Any, segmentation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(volume.dataobj) != 0, segmentation > 0


def _segmented_liver(volume: Any, segmentation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return segmentation > 0, segmentation == 2


def _cases(
    source: Path, pattern: re.Pattern[str], kinds: tuple[str, ...], mask: str, layout: str
) -> list[Case]:
    """The volumes of a download by name; a segmentation is in the same folder or, as in copies of
    LiTS, anywhere below `source`."""
    check_folder(source)
    volumes: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in sorted(source.rglob("*.nii*"), key=Path.as_posix):
        match = pattern.fullmatch(path.name)
        if not match or path.name.startswith(".") or not path.is_file():
            continue
        found = masks if match["kind"].lower() == mask else volumes
        before = found.setdefault(match["case"], path)
        if before != path:
            raise UserError(
                f"{source} has {path.name} and {before.name} for one volume, in {path.parent} and "
                f"{before.parent}; keep one"
            )
    if not volumes:
        raise wrong_layout(source, f"there is no volume ({' or '.join(kinds)})", layout)
    if not masks:
        raise wrong_layout(source, "there is no segmentation", layout)
    return [Case(name, path, masks.get(name)) for name, path in sorted(volumes.items())]


def _records(
    cases: list[Case],
    patients: dict[str, str],
    category: str,
    parts: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Iterator[Record]:
    test = draw_test(patients[case.name] for case in cases if case.segmentation)
    for case in cases:
        patient = patients[case.name]
        split = "test" if patient in test else "pool"
        member = case.volume.name  # Wrapper folders differ between copies of a download.
        if case.segmentation is None:
            yield Record(case.volume, member, left_out=NO_SEGMENTATION)
            continue
        read = _read(case.volume, case.segmentation, parts)
        if read is None:
            yield Record(case.volume, member, left_out=OTHER_GRID)
            continue
        for number, reason, lesion in _slices(*read):
            name = frame_name(member, number)
            labels = (category,) if lesion else ()
            yield Record(case.volume, name, patient, split, labels, reason)


def _read(
    volume: Path,
    segmentation: Path,
    parts: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Organ and lesion, bool (slices, H, W), in RAS+; None if the grids differ."""
    import nibabel

    try:
        image, mask = (
            nibabel.as_closest_canonical(nibabel.load(path)) for path in (volume, segmentation)
        )
        if image.shape != mask.shape or len(image.shape) != 3:
            return None
        corners = np.array([[0, 0, 0, 1], [*(side - 1 for side in image.shape), 1]]).T
        apart = (image.affine @ corners - mask.affine @ corners)[:3]
        if np.abs(apart).max() > SAME_PLACE:
            return None
        organ, lesion = parts(image, np.asarray(mask.dataobj).round())
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise UserError(f"{volume} or its segmentation cannot be read: {error}") from None
    return np.moveaxis(organ, 2, 0), np.moveaxis(lesion, 2, 0)


def _slices(organ: np.ndarray, lesion: np.ndarray) -> Iterator[tuple[int, str, bool]]:
    """For each slice its number from 1, why it is left out (or empty), and whether it shows a
    lesion."""
    pixels = lesion.sum(axis=(1, 2))
    share = (organ | lesion).mean(axis=(1, 2))
    shown = np.flatnonzero(pixels)
    for k, count in enumerate(pixels.tolist()):
        reason = ""
        if count and count < LEAST_LESION:
            reason = SMALL_LESION
        elif not count and share[k] < LEAST_ORGAN:
            reason = LITTLE_ORGAN
        elif not count and len(shown) and np.abs(shown - k).min() <= GAP:
            reason = NEAR_LESION
        yield k + 1, reason, count >= LEAST_LESION
