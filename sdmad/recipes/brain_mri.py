"""Brain MRI: BraTS 2021 slices from BMAD, and Kaggle's set of three tumours."""

from collections.abc import Iterator
from pathlib import Path

from sdmad.recipes.bmad import read_benchmark, volume_of
from sdmad.recipes.records import Record, content_id, find_root, images_below

TUMOURS = {
    "glioma": ("glioma",),
    "meningioma": ("meningioma",),
    "notumor": (),
    "pituitary": ("pituitary_tumour",),
}
TUMOUR_SPLITS = {"Training": "pool", "Testing": "test"}
TUMOUR_LAYOUT = (
    "Training and Testing with the folders glioma, meningioma, notumor and pituitary in each"
)


def brats_slices(source: Path) -> Iterator[Record]:
    """FLAIR slices of BraTS 2021 in the layout of BMAD (`Brain_AD`), one category.

    BMAD's test folder becomes the test split, train and valid become the pool. The number before
    the underscore is the patient: `00124_60.png` is slice 60 of patient 00124. Normal images are
    tumour-free slices of patients with a tumour. Raises `UserError` for another layout.

    Source: Baid et al., RSNA-ASNR-MICCAI BraTS 2021, arXiv 2107.02314; Bao et al., BMAD 2024.
    """
    for image in read_benchmark(source):
        yield Record(
            path=image.path,
            member=image.member,
            patient_id=volume_of(image),
            split="test" if image.folder == "test" else "pool",
            labels=("glioma",) if image.anomalous else (),
        )


def tumour_types(source: Path) -> Iterator[Record]:
    """The Brain Tumor MRI Dataset (Kaggle): glioma, meningioma, pituitary tumour and no tumour.

    Training becomes the pool, Testing the test split. The download does not name patients, so
    slices of one patient can be in both splits; `content_id` only keeps equal files in one split.
    Tumours and normal images are from different sources (Cheng et al., PLoS ONE 2015;10:e0140381,
    and SARTAJ; Br35H), so the source alone can tell them apart. Raises `UserError` for another
    layout.
    """
    required = [f"{folder}/{name}" for folder in TUMOUR_SPLITS for name in TUMOURS]
    root = find_root(source, required, TUMOUR_LAYOUT)
    for folder, split in TUMOUR_SPLITS.items():
        for name, labels in TUMOURS.items():
            for path in images_below(root / folder / name):
                member = path.relative_to(root).as_posix()
                yield Record(path, member, content_id(path), split, labels)
