"""YAML configuration of comparisons: methods, shots, seeds, and variants of SD-MAD."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sdmad.archive.preprocess import InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.baselines import BASELINES, BaselineConfig
from sdmad.comparison.catalogs import keep_signs, plant_wrong_signs
from sdmad.fitting.config import Seeds, Shots
from sdmad.inputs.catalog import Catalog
from sdmad.method.learner import LearnerConfig
from sdmad.words import choices

SD_MAD = "sd_mad"


class Variant(BaseModel):
    """SD-MAD with changed keys of the learner or a changed catalog."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    learner: dict[str, Any] = {}
    signs_per_category: int | None = Field(
        default=None, ge=1, description="the first signs of each category; the others are dropped"
    )
    wrong_signs: float = Field(
        default=0.0, ge=0, lt=1, description="share of each category's signs that is planted"
    )

    def catalog(self, catalog: Catalog) -> Catalog:
        """The catalog of this variant."""
        if self.signs_per_category is not None:
            catalog = keep_signs(catalog, self.signs_per_category)
        return plant_wrong_signs(catalog, self.wrong_signs) if self.wrong_signs else catalog

    def changed(self, learner: LearnerConfig) -> LearnerConfig:
        """The learner of this variant."""
        return LearnerConfig.model_validate(_merged(learner.model_dump(), self.learner))


class CompareConfig(BaseModel):
    """A comparison: data, catalog, backbone, methods, grid of supports."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    archive: str
    labels: str
    catalog: str
    backbone: BackboneConfig = BackboneConfig()
    input: InputConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    activations: str | None = Field(
        default=None, description="activations to use in place of images; then no image is read"
    )
    shots: Shots = [1, 2, 4, 8, 16]
    seeds: Seeds = "0:8"
    methods: list[str] = Field(default=[SD_MAD, *BASELINES], min_length=1)
    variants: dict[str, Variant] = {}
    reference: str = SD_MAD
    bootstrap: int = Field(
        default=1000, ge=0, description="replicates of the two-level bootstrap; 0 leaves it out"
    )

    @model_validator(mode="after")
    def _known(self) -> "CompareConfig":
        for name, variant in self.variants.items():
            if name == SD_MAD or name in BASELINES or "/" in name:
                raise ValueError(
                    f"a variant cannot be called {name!r}; give a name that is not a method's and "
                    "has no '/'"
                )
            variant.changed(self.learner)
        known = [SD_MAD, *BASELINES, *self.variants]
        unknown = [name for name in self.methods if name not in known]
        if unknown:
            hint = choices(unknown[0], known, "methods")
            raise ValueError(f"there is no method {unknown[0]!r}; {hint}")
        if self.reference not in self.names:
            raise ValueError(
                f"the reference {self.reference!r} is not among the methods; add it to them or "
                f"choose one of {', '.join(self.names)}"
            )
        return self

    def for_catalog(self, catalog: Catalog) -> "CompareConfig":
        """With what the catalog says where the learner is silent: flips."""
        return self.model_copy(update={"learner": self.learner.for_catalog(catalog)})

    @property
    def names(self) -> list[str]:
        """All methods to compare, variants last."""
        return list(dict.fromkeys([*self.methods, *self.variants]))

    def digest(self, method: str) -> str:
        """Eight hexadecimal digits over all that a method depends on besides data and backbone."""
        if method in BASELINES:
            settings: Any = self.budget.model_dump(mode="json")
        else:
            variant = self.variants.get(method, Variant())
            settings = variant.model_dump(mode="json", exclude={"learner"})
            settings |= variant.changed(self.learner).model_dump(mode="json")
        content = json.dumps([method if method in BASELINES else SD_MAD, settings], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    @property
    def budget(self) -> BaselineConfig:
        """The budget of the baselines: steps, images per step and views of the learner."""
        return BaselineConfig(
            steps=self.learner.steps,
            images_per_class=self.learner.images_per_class,
            augment=self.learner.augment,
        )


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
