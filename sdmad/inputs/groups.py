"""Group tables: which image belongs to which study, patient, site, ...

A CSV or Parquet file that names images as a label table does, and one more column with the group
of each image; a label table is one. Groups are compared as text, in Unicode NFC.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np

from sdmad.inputs.labels import MISSING, image_names
from sdmad.inputs.matching import Name
from sdmad.inputs.tables import column_name, read_table


@dataclass(frozen=True)
class GroupTable:
    """The groups of the column `by`, in the order in which the file names them.

    `names` has (archive, member) of each image, `of_image` (images,) the position of its group;
    -1 where the file leaves the group empty.
    """

    uri: str
    by: str
    groups: list[str]
    names: list[Name]
    of_image: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)


def load_groups(uri: str, by: str, archive_uri: str) -> GroupTable:
    """Read the images of a group table and their groups, which are in the column `by`.

    Names are read as in `sdmad.inputs.labels.load_labels`. Raises `UserError` with the missing
    column, or with the line and its wrong value.
    """
    by = column_name(by)
    table = read_table(uri, "group table", ("archive", "member", "uri", by))
    table.require(by)
    archives, members = image_names(table, archive_uri)
    position: dict[str, int] = {}
    of_image = np.full(len(table), -1)
    for row, value in enumerate(table.columns[by]):
        if value.lower() not in MISSING:
            group = unicodedata.normalize("NFC", value)
            of_image[row] = position.setdefault(group, len(position))
    names = list(zip(archives, members, strict=True))
    return GroupTable(uri, by, list(position), names, of_image)
