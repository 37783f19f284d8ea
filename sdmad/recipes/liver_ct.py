"""Liver CT: slices of BTCV and LiTS from BMAD."""

from collections.abc import Iterator
from pathlib import Path

from sdmad.recipes.bmad import read_benchmark, volume_of
from sdmad.recipes.records import Record, draw_test

OTHER_SOURCE = "normal slices from BTCV, while all tumours are from LiTS"


def convert(source: Path) -> Iterator[Record]:
    """Slices of the liver in the layout of BMAD (`Liver_AD`), one category.

    BMAD separated valid from test slice by slice, so both folders show the same LiTS scans
    (`4_590.png` is slice 590 of scan 4). To keep patients in one split, half of the scans of both
    folders are drawn for the test split (`draw_test`); do not compare metrics with BMAD's.
    train/good is from BTCV and left out, because the source alone would tell normal images from
    tumours. Raises `UserError` for another layout.

    Source: Bilic et al., LiTS, Med Image Anal 2023;84:102680; Bao et al., BMAD 2024 and its
    published script, which moves the first 73 and 93 slices of one folder to valid.
    """
    images = read_benchmark(source)
    test = draw_test(f"lits-{volume_of(image)}" for image in images if image.folder != "train")
    for image in images:
        if image.folder == "train":
            yield Record(image.path, image.member, left_out=OTHER_SOURCE)
            continue
        patient = f"lits-{volume_of(image)}"
        labels = ("liver_tumour",) if image.anomalous else ()
        split = "test" if patient in test else "pool"
        yield Record(image.path, image.member, patient, split, labels)
