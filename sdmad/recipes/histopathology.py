"""Histopathology: lymph-node patches of Camelyon16 from BMAD."""

from collections.abc import Iterator
from pathlib import Path

from sdmad.recipes.bmad import read_benchmark
from sdmad.recipes.records import Record, content_id


def convert(source: Path) -> Iterator[Record]:
    """Patches of 256 x 256 pixels in the layout of BMAD (`Histopathology_AD`), one category.

    BMAD's test folder becomes the test split, train and valid become the pool. According to BMAD's
    coordinate lists, valid and test come from different slides, but the names of the files
    (`1000.png`) do not say from which: `content_id` only keeps equal files in one split. Raises
    `UserError` for another layout.

    Source: Ehteshami Bejnordi et al., Camelyon16, JAMA 2017;318:2199; Bao et al., BMAD 2024.
    """
    for image in read_benchmark(source):
        yield Record(
            path=image.path,
            member=image.member,
            patient_id=content_id(image.path),
            split="test" if image.folder == "test" else "pool",
            labels=("metastasis",) if image.anomalous else (),
        )
