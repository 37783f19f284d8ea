"""Breast ultrasound: BUSI, the Breast Ultrasound Images Dataset."""

from collections.abc import Iterator
from pathlib import Path

from sdmad.recipes.records import Record, content_id, draw_test, find_root, images_below

CLASSES = {"benign": ("benign",), "malignant": ("malignant",), "normal": ()}
LAYOUT = "benign, malignant and normal with files like benign (1).png in them"


def convert(source: Path) -> Iterator[Record]:
    """BUSI: benign or malignant lesion, or normal breast.

    Masks (`benign (1)_mask.png`, `benign (100)_mask_1.png`) are left out. The download has neither
    a split nor patient ids, and its 780 images are of 600 women. Half of the images are drawn for
    the test split (`draw_test`); equal files are in one split (`content_id`). Images of one woman,
    and copies that were cropped or annotated again, can be in both. Raises `UserError` for another
    layout.

    Source: Al-Dhabyani et al., Data in Brief 2020;28:104863; Pawłowska et al., Data in Brief
    2023;48:109247 on duplicates and images of the axilla.
    """
    root = find_root(source, list(CLASSES), LAYOUT)
    images = [
        (path, labels)
        for name, labels in CLASSES.items()
        for path in images_below(root / name)
        if "_mask" not in path.stem
    ]
    patients = [content_id(path) for path, _ in images]
    test = draw_test(patients)
    for patient, (path, labels) in zip(patients, images, strict=True):
        split = "test" if patient in test else "pool"
        yield Record(path, path.relative_to(root).as_posix(), patient, split, labels)
