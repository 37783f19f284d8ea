"""Read the layout of BMAD, the Benchmarks for Medical Anomaly Detection.

Images are in `train/good`, `valid/good`, `valid/Ungood`, `test/good` and `test/Ungood`, or in `img`
below each. The sets differ in details: `val` for `valid`, `ungood` for `Ungood`, `valid/img/good`
for `valid/good/img`, `Val/val/good`, wrapper folders. MVFA-AD's copies have no `train`. Masks are
in `label`, `val_label`, `test_label` or `anomaly_mask` and have the names of the images.

Source: Bao et al., BMAD, CVPR Workshops 2024, and the folders that its published code reads.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from sdmad.errors import UserError
from sdmad.recipes.records import check_folder, images_below, wrong_layout

LAYOUT = (
    "that of BMAD or MVFA-AD: valid/good, valid/Ungood, test/good and test/Ungood (and train/good) "
    "with images in each, or in img below each"
)
FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
CLASSES = {"good": False, "ungood": True}
MASKS = re.compile(r"(label|mask)s?$|^ground_truth$")
VOLUME = re.compile(r"\D*(\d+)_\d+")


@dataclass(frozen=True, slots=True)
class BenchmarkImage:
    """One image. `folder` is train, valid or test; `member` is its path below the set's folder."""

    path: Path
    member: str
    folder: str
    anomalous: bool

    @property
    def volume(self) -> str | None:
        """The number of the scan of a slice: 00124 for `00124_60.png`; None for other names."""
        match = VOLUME.match(self.path.stem)
        return match[1] if match else None


def read_benchmark(source: Path) -> list[BenchmarkImage]:
    """Every image of one BMAD set, without masks, sorted by path.

    Raises `UserError` if `source` has another layout or contains several sets.
    """
    check_folder(source)
    images, places = [], set()
    for path in images_below(source):
        parts = path.relative_to(source).parts
        folders = [part.casefold() for part in parts[:-1]]
        splits = [k for k, folder in enumerate(folders) if folder in FOLDERS]
        classes = [folder for folder in folders if folder in CLASSES]
        if not splits or not classes or _is_mask(path, folders):
            continue
        place = parts[: splits[0]]
        places.add(place)
        # The last one counts: Train/hist_DIY/test is a test folder.
        split, kind = FOLDERS[folders[splits[-1]]], CLASSES[classes[-1]]
        images.append(BenchmarkImage(path, "/".join(parts[len(place) :]), split, kind))
    if len(places) > 1:
        names = ", ".join("/".join(place) or "." for place in sorted(places))
        raise UserError(f"{source} contains several sets ({names}); give the folder of one of them")
    _check_complete(source, images)
    return images


def volume_of(image: BenchmarkImage) -> str:
    """The number of the scan. Raises `UserError` if the file is not named <scan>_<slice>."""
    if image.volume is None:
        raise UserError(
            f"{image.path} is not named <scan>_<slice> like 12_345.png; "
            "use the file names of the download"
        )
    return image.volume


def _is_mask(path: Path, folders: list[str]) -> bool:
    return any(MASKS.search(name) for name in (*folders, path.stem.casefold()))


def _check_complete(source: Path, images: list[BenchmarkImage]) -> None:
    there = {(image.folder, image.anomalous) for image in images}
    for folder in ("valid", "test"):
        for anomalous in (False, True):
            if (folder, anomalous) not in there:
                what = f"{folder}/{'Ungood' if anomalous else 'good'}"
                raise wrong_layout(source, f"there are no images in {what}", LAYOUT)
