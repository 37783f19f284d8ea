"""The Ray Data pipeline: work units -> read and decode -> model -> rows of a table.

Reading and decoding are one operator, so encoded bytes never move between processes, and pixels
move once, as uint8 at the backbone's size. Each unit ends with a row of index -1, which tells the
driver when a unit is complete (`sdmad.scoring.ledger`).

When a reader dies, Ray starts its task again and drops those blocks of the new attempt whose
positions the old one has filled. So some units may never be complete; the caller runs these again.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from sdmad.archive.units import WorkUnit
from sdmad.runtime.cluster import MODEL_ENVIRONMENT, mistakes_surface
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.transport import disclosed

# A task or an actor whose process keeps dying ends the run with an error after so many retries.
RETRIES = 4
# Seconds without a row before Ray Data ends a run; new nodes can take long to start.
LONGEST_WAIT = 4 * 3600.0
# The driver stores one object for each unit (1 ms, 4.5 KB) before the first unit is read. More
# units run in several executions, each of which starts its detectors again.
UNITS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Operators:
    """The two operators of a run: what reads a unit, and the actors that make rows of its images.

    `read` is called with a batch that holds one unit and with `options`, as `read_and_decode`.
    `actor` is a `ModelActor`, and `arguments` are those of its constructor.
    """

    read: Callable[..., Iterator[dict[str, np.ndarray]]]
    options: dict[str, Any]
    actor: type
    arguments: tuple[Any, ...]


def stream_rows(
    units: list[WorkUnit],
    operators: Operators,
    config: PipelineConfig,
    run: str,
    quarantine: bool = False,
) -> Iterator[pa.Table]:
    """Yield rows of all units, mixed and in any order.

    `config` must be filled (`PipelineConfig.fill`); `run` is the run's name in the logs. With
    `quarantine`, images are decoded in processes apart from the readers.
    """
    _configure_ray_data()
    for start in range(0, len(units), UNITS_AT_ONCE):
        options = operators.options | {"rows": config.batch_size, "run": run}
        images = _read(
            units[start : start + UNITS_AT_ONCE],
            operators,
            options | {"quarantine": quarantine},
            config,
        )
        rows = _compute(images, operators, config)
        with mistakes_surface():
            for batch in rows.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=1
            ):
                yield disclosed(batch)


def _configure_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S" not in os.environ:
        context.execution_no_progress_timeout_s = LONGEST_WAIT
    # What fails is raised; Ray would print it before, with its own traceback.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray 2.60 can bound retries only through arguments that it deprecates for 2.64.
    warnings.simplefilter("ignore", RayDeprecationWarning)


def _read(
    units: list[WorkUnit], operators: Operators, options: dict[str, Any], config: PipelineConfig
) -> ray.data.Dataset:
    """Images of the units, as the reader yields them."""
    payloads = [{"payload": unit.to_json()} for unit in units]
    data: ray.data.Dataset = ray.data.from_items(payloads, override_num_blocks=len(payloads))
    return data.map_batches(
        operators.read,
        batch_size=1,
        batch_format="numpy",
        fn_kwargs=options,
        num_cpus=config.reader_cpus,
        max_retries=RETRIES,
    )


def _compute(
    images: ray.data.Dataset, operators: Operators, config: PipelineConfig
) -> ray.data.Dataset:
    """Rows of the images."""
    if config.detectors is None:
        raise AssertionError("the pipeline runs with a filled configuration")
    least, most = config.detectors
    return images.map_batches(
        operators.actor,
        batch_size=config.batch_size,
        batch_format="numpy",
        fn_constructor_args=operators.arguments,
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_concurrent_calls_per_actor=config.detector_calls,
            enable_true_multi_threading=True,
        ),
        num_cpus=config.detector_cpus,
        num_gpus=config.detector_gpus or None,
        runtime_env={"env_vars": MODEL_ENVIRONMENT},
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
    )
