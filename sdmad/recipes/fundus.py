"""Colour fundus photographs: ODIR-5K."""

import re
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import pandas as pd

from sdmad.errors import UserError
from sdmad.recipes.records import Record, draw_test, find_file, images_below, wrong_layout

# A keyword has the first category whose phrase it contains; any other finding is OTHER.
PHRASES = {
    "diabetic retinopathy": "diabetic_retinopathy",
    "proliferative retinopathy": "diabetic_retinopathy",
    "glaucoma": "glaucoma",
    "cataract": "cataract",
    "macular degeneration": "age_related_macular_degeneration",
    "hypertensive retinopathy": "hypertensive_retinopathy",
    "myopi": "pathological_myopia",
}
OTHER = "other_abnormality"
# Keywords are separated by commas, mostly the full-width comma (U+FF0C).
SEPARATORS = re.compile("[,;\uff0c\uff1b]")
NORMAL = "normal fundus"
QUALITY = frozenset(
    ("lens dust", "low image quality", "image offset", "optic disk photographically invisible")
)
NO_FUNDUS = frozenset(("no fundus image", "anterior segment image"))
TABLES = ["full_df.csv", "data.csv", "*Annotations*.csv", "data.xlsx", "*Annotations*.xlsx"]
EYES = ("Left", "Right")
COLUMNS = ["ID"] + [f"{eye}-{what}" for eye in EYES for what in ("Fundus", "Diagnostic Keywords")]
LAYOUT = (
    "full_df.csv or data.xlsx (one row a patient or an eye) and the images, like 0_left.jpg, "
    "in Training Images or ODIR-5K_Training_Images"
)


def convert(source: Path) -> Iterator[Record]:
    """ODIR-5K: normal and seven categories, with labels for each eye of a patient.

    The columns N, D, G, C, A, H, M, O describe patients, so a healthy eye would get the diseases
    of the other eye. Labels therefore come from the diagnostic keywords of each eye (`eye_labels`).
    Only the training images have labels; half of the patients are drawn for the test split
    (`draw_test`). Raises `UserError` if the table, a column or the images are missing.

    Source: Peking University International Competition on Ocular Disease Intelligent Recognition,
    2019.
    """
    table = _read_table(find_file(source, TABLES, LAYOUT))
    paths = {
        path.name: path
        for path in images_below(source)
        if any("train" in part.casefold() for part in path.relative_to(source).parts[:-1])
    }
    eyes = [
        (row["ID"], row[f"{eye}-Fundus"], row[f"{eye}-Diagnostic Keywords"])
        for row in table.to_dict("records")
        for eye in EYES
    ]
    if not paths.keys() & {name for _, name, _ in eyes}:
        raise wrong_layout(
            source, "there is no image that the table lists in a folder *Train*", LAYOUT
        )
    test = draw_test(patient for patient, _, _ in eyes)
    for patient, name, keywords in eyes:
        labels = eye_labels(keywords)
        reason = "" if labels is not None else "no fundus image, or only a remark on image quality"
        if name not in paths:
            reason = "not in the download"
        split = "test" if patient in test else "pool"
        yield Record(paths.get(name, source / name), name, patient, split, labels or (), reason)


def eye_labels(keywords: str) -> tuple[str, ...] | None:
    """The categories of an eye from its diagnostic keywords; None if it cannot be labelled.

    It cannot if there are only remarks on image quality, or if the picture shows no fundus.
    Suspected findings count as findings. Drusen are another abnormality, as in the columns of the
    download.
    """
    found = [part.strip().casefold() for part in SEPARATORS.split(keywords) if part.strip()]
    telling = [keyword for keyword in found if keyword not in QUALITY]
    if not telling or NO_FUNDUS & set(telling):
        return None
    labels = {_category(keyword) for keyword in telling if keyword != NORMAL}
    return tuple(name for name in [*dict.fromkeys(PHRASES.values()), OTHER] if name in labels)


def _category(keyword: str) -> str:
    return next((name for phrase, name in PHRASES.items() if phrase in keyword), OTHER)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".xlsx":
            table = pd.read_excel(path, dtype=str, keep_default_na=False, engine="openpyxl")
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ImportError:
        raise UserError(
            f"{path} needs openpyxl, which is not installed: pip install 'sdmad[recipes]', "
            "or save the sheet as data.csv in the same folder"
        ) from None
    except (ValueError, BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from None
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]!r}; use the table of the download unchanged"
        )
    # full_df.csv has one row per eye, and each row describes both eyes.
    return table.drop_duplicates("ID")[COLUMNS]
