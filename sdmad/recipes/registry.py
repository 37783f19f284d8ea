"""All recipes by name. The configuration of a recipe has the same name, and mostly its catalog."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdmad.errors import UserError
from sdmad.recipes import (
    brain_mri,
    breast_ultrasound,
    chest_xray,
    fundus,
    histopathology,
    liver_ct,
    retinal_oct,
    volumes,
)
from sdmad.recipes.records import Record, check_folder, keep_apart


@dataclass(frozen=True)
class Recipe:
    """One public download: `convert` reads its layout, `download` is its name in messages.

    `catalog` is the name of the shipped catalog, where it is not that of the recipe.
    """

    name: str
    download: str
    convert: Callable[[Path], Iterator[Record]]
    catalog: str = ""

    @property
    def catalog_name(self) -> str:
        return self.catalog or self.name

    def records(self, source: Path) -> list[Record]:
        """Every image of the download, with no patient in both pool and test.

        Raises `UserError` if the layout is another one or no image can be used.
        """
        check_folder(source)
        records = keep_apart(self.convert(source))
        if all(record.left_out for record in records):
            raise UserError(f"no image of {source} can be used; give the folder of {self.download}")
        return records


_ALL = (
    Recipe("brain_mri", "BraTS 2021 slices of BMAD", brain_mri.brats_slices),
    Recipe("brain_tumour_mri", "the Brain Tumor MRI Dataset of Kaggle", brain_mri.tumour_types),
    Recipe("liver_ct", "the liver slices of BMAD", liver_ct.convert),
    Recipe("brats_volumes", "BraTS in NIfTI", volumes.brats, catalog="brain_mri"),
    Recipe("lits_volumes", "LiTS in NIfTI", volumes.lits, catalog="liver_ct"),
    Recipe("retinal_oct", "OCT2017 of Kermany et al.", retinal_oct.oct2017),
    Recipe("retinal_resc", "the RESC B-scans of BMAD", retinal_oct.resc),
    Recipe("chest_xray", "ChestX-ray14 of the NIH", chest_xray.convert),
    Recipe("fundus", "ODIR-5K", fundus.convert),
    Recipe("breast_ultrasound", "BUSI", breast_ultrasound.convert),
    Recipe("histopathology", "the Camelyon16 patches of BMAD", histopathology.convert),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises `UserError` with all names if there is none."""
    if name not in RECIPES:
        known = "; ".join(f"{recipe.name} ({recipe.download})" for recipe in _ALL)
        raise UserError(f"there is no recipe {name!r}; choose one of {known}")
    return RECIPES[name]
