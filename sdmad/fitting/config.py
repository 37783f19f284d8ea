"""YAML configuration of training runs, typed and validated before any work starts."""

from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
)

from sdmad import storage
from sdmad.archive.preprocess import InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.errors import UserError
from sdmad.inputs import shots as shots_forms
from sdmad.inputs.validation import explain
from sdmad.method.learner import LearnerConfig


def parse_numbers(text: str, what: str) -> list[int]:
    """The numbers in a range such as `0:16`, 16 excluded, or in a list such as `1,2,4`.

    Raises `UserError` if a number is negative or given twice; `what` names the numbers in it.
    """
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            numbers = list(range(first, last))
        else:
            numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    else:
        if not numbers:
            raise UserError(f"{what} {text!r} is an empty range: 0:8 means 0 to 7")
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UserError(
            f"{what} {text!r} is neither a range such as 0:8 nor a list of different numbers "
            "such as 0,1,2"
        )
    return numbers


def _numbers(shots: Any) -> Any:
    if shots == shots_forms.ALL or isinstance(shots, dict):
        shots = [shots]
    if isinstance(shots, list) and not all(isinstance(one, int) for one in shots):
        raise ValueError(
            "a comparison takes numbers of shots, as in [1, 4]; `all` and shots by category are "
            "for `sdmad train`"
        )
    return shots


def _at_least_one(shots: list[int]) -> list[int]:
    if min(shots) < 1:
        raise ValueError(f"shots must be 1 or more, not {min(shots)}")
    return shots


def _forms(shots: Any) -> list[shots_forms.Shots]:
    found = [shots_forms.checked(one) for one in (shots if isinstance(shots, list) else [shots])]
    if not found:
        raise ValueError("shots are empty; give a number, as in [4]")
    keys = [shots_forms.key(one) for one in found]
    if len(set(keys)) < len(keys):
        raise ValueError("the same shots are listed twice")
    return found


def _seeds(seeds: str) -> str:
    parse_numbers(seeds, "seeds")
    return seeds


Shots = Annotated[
    list[int], Field(min_length=1), BeforeValidator(_numbers), AfterValidator(_at_least_one)
]
TrainShots = Annotated[list[Any], PlainValidator(_forms)]
"""A list of `sdmad.inputs.shots.Shots`; one of them need not be in a list."""
Seeds = Annotated[str, AfterValidator(_seeds)]


class ComputeConfig(BaseModel):
    """Ray Train workers and their resources; None: as the cluster allows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    workers: int | None = Field(default=None, ge=1)
    cpus_per_worker: float | None = Field(default=None, gt=0)
    gpus_per_worker: float | None = Field(default=None, ge=0)
    fits_per_batch: int = Field(
        default=8, ge=1, description="fits that one worker trains together in a batch"
    )
    max_failures: int = Field(
        default=3, ge=0, description="restarts of failed workers before the run fails"
    )


class TrainConfig(BaseModel):
    """A training run: data, catalog, backbone, learner, grid of fits, compute."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    archive: str
    labels: str
    catalog: str
    backbone: BackboneConfig = BackboneConfig()
    input: InputConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    activations: str | None = Field(
        default=None,
        description="activations (the `--output` of `sdmad encode`) to fit to; then no image is "
        "read ([activations.md](activations.md#fit))",
    )
    shots: TrainShots = [4]
    seeds: Seeds = Field(
        default="0:8", description="`0:8` is seeds 0 to 7; or a list such as `0,3,5`"
    )
    compute: ComputeConfig = ComputeConfig()


Config = TypeVar("Config", bound=BaseModel)


def load_config(
    uri: str,
    changes: dict[str, Any],
    kind: type[Config],
) -> Config:
    """Read the configuration at `uri` as `kind`; `changes` that are not None replace its values.

    Raises `UserError` that names the file, the key and the mistake.
    """
    try:
        content = yaml.safe_load(storage.read_file(uri, "configuration"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"configuration {uri} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"configuration {uri} is not a mapping of keys to values")
    content |= {key: value for key, value in changes.items() if value is not None}
    try:
        return kind.model_validate(content)
    except ValueError as error:
        raise UserError(f"configuration {uri}: {explain(error, kind)}") from None
