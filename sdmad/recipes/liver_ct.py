"""Liver CT: slices of BTCV and LiTS as BMAD has them."""

from collections.abc import Iterator
from pathlib import Path

from sdmad.recipes.bmad import read_benchmark, volume_of
from sdmad.recipes.records import Record, draw_test

OTHER_SOURCE = "normal slices of BTCV, another source than all tumours"


def convert(source: Path) -> Iterator[Record]:
    """Slices of the liver in the layout of BMAD (`Liver_AD`), one category.

    BMAD cut valid from test slice by slice, so both show the same LiTS scans (`4_590.png` is
    slice 590 of scan 4). Patients must not be on both sides: the scans of both folders are drawn
    anew (`draw_test`), and metrics cannot be compared with those of BMAD. train/good is BTCV,
    whose look would give normal away, and is left out. Raises `UserError` for another layout.

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
