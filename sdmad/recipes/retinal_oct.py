"""Optical coherence tomography of the retina: OCT2017 and RESC."""

import re
from collections.abc import Iterator
from pathlib import Path

from sdmad.errors import UserError
from sdmad.recipes.bmad import BenchmarkImage, read_benchmark, volume_of
from sdmad.recipes.records import Record, draw_test, find_root, images_below

DISEASES = {
    "CNV": ("choroidal_neovascularisation",),
    "DME": ("diabetic_macular_oedema",),
    "DRUSEN": ("drusen",),
    "NORMAL": (),
}
SPLITS = {"train": "pool", "val": "pool", "test": "test"}
LAYOUT = (
    "train and test (and val) with the folders CNV, DME, DRUSEN and NORMAL in each "
    "and files like CNV-1016042-1.jpeg in them"
)
NAME = re.compile(r"(CNV|DME|DRUSEN|NORMAL)-(\d+)-\d+$")


def oct2017(source: Path) -> Iterator[Record]:
    """OCT2017 of Kermany et al.: three diseases and normal, one per image.

    The test folder becomes the test split, train and val become the pool. The number in the middle
    of a file name is the patient. Some patients are in both train and test: `keep_apart` leaves out
    their pool images. Raises `UserError` for another layout or an unexpected file name.

    Source: Kermany et al., Cell 2018;172:1122; Tampu et al., Sci Data 2022;9:580 on the overlap.
    """
    required = [f"{folder}/{name}" for folder in ("train", "test") for name in DISEASES]
    root = find_root(source, required, LAYOUT)
    for folder, split in SPLITS.items():
        for name, labels in DISEASES.items():
            for path in images_below(root / folder / name):
                match = NAME.match(path.stem)
                if not match:
                    raise UserError(
                        f"{path} is not named like {name}-1016042-1.jpeg; "
                        "use the file names of the download"
                    )
                yield Record(path, path.relative_to(root).as_posix(), match[2], split, labels)


def resc(source: Path) -> Iterator[Record]:
    """B-scans of the Retinal Edema Segmentation Challenge in the layout of BMAD, one category.

    BMAD separated valid (115) from test (1,805) B-scan by B-scan; together they are the 15 volumes
    of 128 B-scans of the challenge's validation set. To keep patients in one split, half of the
    volumes of both folders are drawn for the test split (`draw_test`); do not compare metrics with
    BMAD's. train/good shows other patients and belongs to the pool. Raises `UserError` for another
    layout.

    Source: AI Challenger 2018 (RESC); Bao et al., BMAD 2024.
    """
    images = read_benchmark(source)
    patients = [_patient(image) for image in images]
    drawn = zip(patients, images, strict=True)
    test = draw_test(patient for patient, image in drawn if image.folder != "train")
    for patient, image in zip(patients, images, strict=True):
        labels = ("retinal_oedema",) if image.anomalous else ()
        split = "test" if patient in test else "pool"
        yield Record(image.path, image.member, patient, split, labels)


def _patient(image: BenchmarkImage) -> str:
    # The challenge numbers the volumes of its training set and of its validation set from 1 each.
    if image.folder == "train":
        return f"train-{image.volume or image.path.stem}"
    return f"validation-{volume_of(image)}"
