"""Breast ultrasound: BUSI."""

from collections.abc import Iterator
from pathlib import Path

from sdmad.recipes.records import Record, content_id, draw_test, find_root, images_below

CLASSES = {"benign": ("benign",), "malignant": ("malignant",), "normal": ()}
LAYOUT = "benign, malignant and normal with files like benign (1).png in them"


def convert(source: Path) -> Iterator[Record]:
    """The Breast Ultrasound Images Dataset: benign or malignant lesion, or normal breast.

    Masks (`benign (1)_mask.png`, `benign (100)_mask_1.png`) are left out. There is no split and
    no patient id, though 780 images are of 600 women: half of the images are drawn for the test
    split (`draw_test`), equal files on one side (`content_id`); images of one woman, and pictures
    that were only cropped or annotated anew, can be on both. Raises `UserError` for another layout.

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
