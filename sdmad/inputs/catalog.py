"""Sign catalogs: the radiological signs of each anomaly category.

A catalog is a YAML file that a physician can read and edit:

    name: chest_x_ray
    modality: frontal chest radiograph
    templates: ["a chest radiograph with {}"]
    signs:
      blunted_angle:
        prompts: [a blunted costophrenic angle, a meniscus at the costophrenic angle]
    categories:
      effusion: {signs: [blunted_angle], source: "Webb & Higgins, Thoracic Imaging, 3rd ed."}
    normal: {signs: [sharp_angles]}

A sign may belong to several categories. In the notation of docs/method.md, `normal_membership` is
the first row of R (S_0) and `membership` is the rest of R.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sdmad import storage
from sdmad.archive.preprocess import InputConfig
from sdmad.errors import UserError
from sdmad.inputs.validation import explain

SHIPPED = Path(__file__).parent / "catalogs"
NORMAL = "no abnormality"
NAME_OF = "name_"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
SignName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=80)]
Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]


class Sign(BaseModel):
    """One radiological sign: the prompts that describe it, and their source."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompts: list[Prompt] = Field(min_length=1)
    source: str | None = None


class Category(BaseModel):
    """One anomaly category, or normal: the names of its signs, and their source."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    signs: list[SignName] = Field(min_length=1)
    title: str | None = None
    source: str | None = None


class Catalog(BaseModel):
    """A validated sign catalog. Categories and signs keep the order of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    modality: str
    templates: list[str] = Field(default=["{}"], min_length=1)
    sources: list[str] = []
    signs: dict[SignName, Sign] = Field(min_length=1)
    categories: dict[Name, Category] = Field(min_length=1)
    normal: Category
    input: InputConfig | None = Field(
        default=None, description="input that the modality calls for, unless configured otherwise"
    )
    flip: bool = Field(
        default=False,
        description="whether a mirrored image is one of the modality too, so that views may be "
        "mirrored left to right; unless configured otherwise",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Catalog":
        if "normal" in self.categories:
            raise ValueError(
                "'normal' is not a category; describe it under the top-level key 'normal'"
            )
        listed = {**self.categories, "normal": self.normal}
        for name, category in listed.items():
            unknown = [s for s in category.signs if s not in self.signs]
            if unknown:
                raise ValueError(
                    f"{name} lists the sign {unknown[0]!r}, which is not under 'signs'"
                )
            if len(set(category.signs)) < len(category.signs):
                raise ValueError(f"{name} lists a sign twice")
        used = {s for category in listed.values() for s in category.signs}
        unused = [s for s in self.signs if s not in used]
        if unused:
            raise ValueError(
                f"the sign {unused[0]!r} belongs to no category; list it in one or remove it"
            )
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"the template {template!r} needs exactly one {{}}")
        return self

    @property
    def category_names(self) -> list[str]:
        return list(self.categories)

    @property
    def sign_names(self) -> list[str]:
        return list(self.signs)

    @cached_property
    def membership(self) -> np.ndarray:
        """Whether each category lists each sign: bool (categories, signs)."""
        return np.array([[s in c.signs for s in self.signs] for c in self.categories.values()])

    @cached_property
    def written(self) -> np.ndarray:
        """`membership` without the signs that `with_names` adds."""
        own_name = [[s == NAME_OF + c for s in self.signs] for c in self.categories]
        return self.membership & ~np.array(own_name)

    @cached_property
    def normal_membership(self) -> np.ndarray:
        """Whether normal lists each sign: bool (signs,)."""
        return np.array([s in self.normal.signs for s in self.signs])

    @cached_property
    def texts(self) -> tuple[list[str], np.ndarray]:
        """Every prompt in every template, and for each text the index of its sign."""
        texts, owner = [], []
        for k, sign in enumerate(self.signs.values()):
            for prompt in sign.prompts:
                for template in self.templates:
                    texts.append(template.format(prompt))
                    owner.append(k)
        return texts, np.array(owner)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content. Comments and layout of the file do not change it."""
        without = {name for name in ("input", "flip") if not getattr(self, name)}
        canonical = json.dumps(self.model_dump(mode="json", exclude=without), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def chosen_input(self, configured: InputConfig | None) -> InputConfig:
        """The input of a run: as configured, else as the catalog says, else the backbone's own."""
        return configured or self.input or InputConfig()

    def title(self, category: str) -> str:
        """The display name of a category."""
        return self.categories[category].title or category.replace("_", " ")

    @property
    def normal_title(self) -> str:
        """What normal is called in a text."""
        return self.normal.title or NORMAL

    def with_names(self) -> "Catalog":
        """This catalog with the name of each category, and of normal, as one more of its signs.

        The sign is called `name_<category>`. It is left out where a sign of the category has the
        name as a prompt already, or another sign is called so.
        """
        titles = {name: self.title(name) for name in self.categories}
        signs, listed = dict(self.signs), {}
        for name, category in {**self.categories, "normal": self.normal}.items():
            title, called = titles.get(name, self.normal_title), NAME_OF + name
            prompts = {p.casefold() for s in category.signs for p in self.signs[s].prompts}
            listed[name] = category
            if title.casefold() not in prompts and called not in self.signs:
                signs[called] = Sign(prompts=[title])
                listed[name] = category.model_copy(update={"signs": [*category.signs, called]})
        content = {name: getattr(self, name) for name in Catalog.model_fields}
        normal = listed.pop("normal")
        return Catalog(**content | {"signs": signs, "categories": listed, "normal": normal})


def parse_catalog(content: Any, where: str) -> Catalog:
    """Validate the parsed content of a catalog file.

    Raises `UserError` with `where` (path or URI), the entry and what is wrong with it.
    """
    try:
        return Catalog.model_validate(content)
    except ValueError as error:
        raise UserError(f"sign catalog {where}: {explain(error, Catalog)}") from None


def load_catalog(uri: str) -> Catalog:
    """Read a catalog by the name of a shipped one (`fundus`, ...), a path or an s3:// URI.

    Raises `UserError` if it does not exist or is not valid.
    """
    shipped = SHIPPED / f"{uri}.yaml"
    if shipped.is_file():
        uri = str(shipped)
    elif not storage.exists(uri):
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise UserError(f"there is no sign catalog {uri}; give a YAML file or one of: {names}")
    try:
        content = yaml.safe_load(storage.read_file(uri, "sign catalog"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"sign catalog {uri} is not valid YAML: {error}") from None
    return parse_catalog(content, uri)
