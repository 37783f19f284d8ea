"""Chest radiographs: ChestX-ray14 of the NIH Clinical Center."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sdmad.errors import UserError
from sdmad.recipes.records import Record, find_file, images_below, wrong_layout

# Findings by their names in the download, in its order, with the category of each.
FINDINGS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Effusion": "effusion",
    "Infiltration": "infiltration",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Edema": "oedema",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Pleural_Thickening": "pleural_thickening",
    "Hernia": "hernia",
}
NORMAL = "No Finding"
COLUMNS = ["Image Index", "Finding Labels", "Patient ID"]
LISTS = {"train_val_list.txt": "pool", "test_list.txt": "test"}
LAYOUT = (
    "Data_Entry_2017.csv, train_val_list.txt, test_list.txt and the PNG files, "
    "in images or in images_001/images to images_012/images"
)


def convert(source: Path) -> Iterator[Record]:
    """ChestX-ray14: up to fourteen findings per image, patient ids, and the official split.

    `train_val_list.txt` becomes the pool, `test_list.txt` the test split. Images that a partial
    download lacks are left out with a reason. The labels were extracted from reports by text
    mining. Raises `UserError` if the table, a list, the images or a column are missing, or if a
    finding is not one of the fourteen.

    Source: Wang et al., ChestX-ray8, CVPR 2017, and the release's README for fourteen findings.
    """
    table = _read_table(find_file(source, ["Data_Entry_2017*.csv"], LAYOUT))
    splits = {
        name: split
        for listing, split in LISTS.items()
        for name in find_file(source, [listing], LAYOUT).read_text().split()
    }
    paths = {path.name: path for path in images_below(source)}
    if not paths.keys() & set(table["Image Index"]):
        raise wrong_layout(source, "there is no image that Data_Entry_2017.csv lists", LAYOUT)
    for row, (name, findings, patient) in enumerate(table.to_numpy()):
        labels = _labels(findings, row)
        reason = ""
        if name not in paths:
            reason = "not in the download"
        elif name not in splits:
            reason = "in neither train_val_list.txt nor test_list.txt"
        yield Record(
            paths.get(name, source / name), name, patient, splits.get(name, ""), labels, reason
        )


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from None
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]!r}; use the table as the NIH published it"
        )
    return table[COLUMNS]


def _labels(findings: str, row: int) -> tuple[str, ...]:
    titles = [title for title in findings.split("|") if title != NORMAL]
    unknown = [title for title in titles if title not in FINDINGS]
    if unknown:
        raise UserError(
            f"Data_Entry_2017.csv, row {row + 2}: {unknown[0]!r} is not one of the 14 findings"
        )
    return tuple(category for title, category in FINDINGS.items() if title in titles)
