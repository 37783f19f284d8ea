"""A training run: a grid of (shots, seed), divided among the workers of Ray Train.

The driver draws the supports, and readers decode their images, each shard once. Each rank fits
several seeds in one batch and writes a fit when it is done. Restarted workers, and the same command
run again, make only the fits that are missing or were made from another support.
"""

import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.loading import check_backbone, load_backbone
from sdmad.errors import UserError
from sdmad.fits import code_version, fit_uri
from sdmad.fitting.config import TrainConfig, parse_numbers
from sdmad.fitting.encoded import CONFIGURATION, EncodedImages, check_archive, check_views
from sdmad.fitting.reading import Image, check_names, read_images, refuse
from sdmad.fitting.refit import prepare, replaced, up_to_date
from sdmad.fitting.sight import say_sight
from sdmad.fitting.status import JOB
from sdmad.fitting.worker import FitTask, SupportRef, fit_loop
from sdmad.inputs.catalog import Catalog, load_catalog
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.inputs.shots import key
from sdmad.runtime.cli import ending
from sdmad.runtime.cluster import (
    MODEL_ENVIRONMENT,
    Resources,
    connect,
    gpus_each,
    kept_in_memory,
    mistakes_surface,
)
from sdmad.runtime.progress import STARTING_FITS, Tracker
from sdmad.storage import run_record
from sdmad.storage.fit_files import Key
from sdmad.storage.objects import StoredObject
from sdmad.storage.run_record import Heartbeat, now
from sdmad.words import counted


def train_seeds(
    config: TrainConfig,
    output: str,
    encoded: EncodedImages | None = None,
    names: bool = False,
) -> int:
    """Make every fit that is missing at `output`, or whose support has changed since; returns
    their number.

    `encoded` are the activations that the configuration names, opened: then no image is read. With
    another label table than before, notices say what has changed, with `names` of images.
    Raises `UserError`, before any fitting, if configuration, data and output do not match.
    """
    started, begin = datetime.now(UTC), time.monotonic()
    archive = storage.resolve(config.archive)
    catalog = load_catalog(config.catalog)
    config = config.model_copy(update={"learner": config.learner.for_catalog(catalog)})
    config.learner.check(catalog.category_names)
    check_backbone(config.backbone)
    if (encoded is None) != (config.activations is None):
        raise AssertionError("whoever configures activations opens them")
    if encoded is None:
        storage.check_readable(archive, "archive")
    else:
        check_archive(encoded, archive)
        check_views(config.learner)
    storage.check_writable(output)
    labels = load_labels(storage.resolve(config.labels), catalog.category_names, archive)
    identity = _identity(config, archive, catalog, labels)
    before = run_record.read_earlier(output, JOB)
    same = {key: value for key, value in identity.items() if key != "labels"}
    run_record.check_identity(output, same, "fits")
    seeds = parse_numbers(config.seeds, "seeds")
    grid = [(shots, seed) for shots in config.shots for seed in seeds]
    supports = [SupportRef.draw(labels, shots, seed) for shots, seed in grid]
    digests = {(s.shots, s.seed): s.digest for s in supports}
    kept = up_to_date(output, digests)
    missing = [s for s in supports if (s.shots, s.seed) not in kept]
    spec = _check_backbone(config, catalog, encoded) if missing else None
    refit = prepare(output, before, labels, digests, kept, names)
    record: dict[str, Any] = {
        "job": JOB,
        "status": "running",
        "started": started.isoformat(timespec="seconds"),
        "identity": identity,
        # Places that do not depend on the working directory: reports read the supports again.
        "config": config.model_dump(mode="json")
        | {"archive": archive, "labels": storage.resolve(config.labels)},
        "code_version": code_version(),
        "shots": [key(shots) for shots in config.shots],
        "seeds": seeds,
        "fits_total": len(grid),
        "fits_skipped": len(grid) - len(missing),
    } | refit.to_json()
    if spec:
        record["input"] = json.loads(spec.to_json())

    def so_far() -> dict[str, Any]:
        return record | {"updated": now(), "seconds": round(time.monotonic() - begin, 2)}

    run_record.write_record(output, so_far())
    try:
        if missing and spec:
            with Heartbeat(output, so_far):
                connect()
                inputs = _inputs(missing, labels, archive, encoded, spec)
                signs = config.learner.chosen_signs(catalog)
                _fit_missing(missing, config, signs, output, inputs, refit.stale)
        _write_table(supports, output)
        record |= {"status": "finished", "fits_made": len(missing)}
        record["backbone_auroc"] = say_sight(output, digests)
    except BaseException as error:
        record |= ending(error)
        raise
    finally:
        run_record.write_record(output, so_far() | {"finished": now()})
    return len(missing)


def _identity(
    config: TrainConfig, archive: str, catalog: Catalog, labels: LabelTable
) -> dict[str, str]:
    """What must be the same in all runs that write to one output."""
    learner = hashlib.sha256(config.learner.model_dump_json().encode())
    return {
        "archive": archive,
        "labels": labels.digest,
        "catalog": catalog.digest[:16],
        "backbone": str(config.backbone),
        "input": catalog.chosen_input(config.input).model_dump_json(),
        "learner": learner.hexdigest()[:16],
        "source": "images" if config.activations is None else "activations",
    }


def _check_backbone(
    config: TrainConfig, catalog: Catalog, encoded: EncodedImages | None
) -> ImageSpec:
    """What is done to pixels.

    Raises `UserError` if the backbone has fewer blocks than are adapted, or if the activations are
    of another backbone or do not suffice.
    """
    backbone = load_backbone(config.backbone, "cpu")
    load_backbone.cache_clear()
    for name in ("image", "text"):
        wanted = getattr(config.learner.adapter, name).blocks
        there = len(getattr(backbone, name).blocks)
        if wanted > there:
            raise UserError(
                f"learner.adapter.{name}.blocks is {wanted}, but the {name} tower of "
                f"{config.backbone} has {there} blocks; adapt at most {there}"
            )
    spec = catalog.chosen_input(config.input).apply(backbone.spec)
    if encoded is not None:
        blocks = config.learner.adapter.image.blocks
        encoded.stored.check(encoded.uri, backbone.identity, spec, blocks, CONFIGURATION)
    return spec


def _inputs(
    missing: list[SupportRef],
    labels: LabelTable,
    archive: str,
    encoded: EncodedImages | None,
    spec: ImageSpec,
) -> dict[str, Any]:
    """The fields of `FitTask` with pixels or activations of the support images.

    Raises `UserError` for images of the pool that are missing, and for support images that cannot
    be used.
    """
    pool = labels.where(labels.split == "pool")
    names = list(zip(pool.archive.tolist(), pool.member.tolist(), strict=True))
    images = {image for support in missing for image in support.images}
    if encoded is not None:
        return {"pixels": {}, "encoded": _chosen(encoded, names, images)}
    check_names(names, archive)
    return {"pixels": _pixels(images, archive, spec)}


def _pixels(images: set[Image], archive: str, spec: ImageSpec) -> dict[Image, Any]:
    """For `fitting.reading.fetch`; `UserError` for images that cannot be used."""
    pixels, problems = read_images(images, archive, spec)
    refuse(problems)
    return pixels


def _chosen(encoded: EncodedImages, pool: list[Image], images: set[Image]) -> Any:
    """A Ray reference to the activations of `images`; `UserError` for those that are missing."""
    found = encoded.find(pool, images)
    found.check(pool, "split pool", encoded.uri)
    found.check_wanted(images)
    return ray.put(found.chosen)


def _fit_missing(
    missing: list[SupportRef],
    config: TrainConfig,
    catalog: Catalog,
    output: str,
    inputs: dict[str, Any],
    stale: dict[Key, StoredObject],
) -> None:
    """Make fits from `inputs`, as `_inputs` gives them; `stale` are the fits to replace."""
    resources = connect()
    size = config.compute.fits_per_batch
    batches = [missing[k : k + size] for k in range(0, len(missing), size)]
    scaling = _scaling(config, resources, len(batches))
    device = None if scaling.use_gpu else "cpu"
    task = FitTask(
        batches=batches,
        output=output,
        backbone=config.backbone,
        catalog=catalog,
        learner=config.learner,
        input=catalog.chosen_input(config.input),
        device=device,
        **inputs,
    )
    trainer = TorchTrainer(
        fit_loop,
        train_loop_config={"task": task},
        scaling_config=scaling,
        # Ranks exchange no tensors, so NCCL between nodes would only be a source of failures.
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray Train V2's
            name="fits",
            # Fits go straight to the output; Ray Train stores no checkpoints.
            **kept_in_memory(),
            failure_config=FailureConfig(max_failures=config.compute.max_failures),
            worker_runtime_env={"env_vars": MODEL_ENVIRONMENT},
        ),
    )
    with mistakes_surface(), _watch(output, missing, stale):
        trainer.fit()
    left = {(s.shots, s.seed) for s in missing} - replaced(stale, output)
    if left:
        raise UserError(
            f"{counted(len(left), 'fit')} missing at {output}, because workers wrote to their own "
            "disks; on a cluster give an s3:// URI or a folder on a shared file system"
        )


def _scaling(config: TrainConfig, resources: Resources, batches: int) -> ScalingConfig:
    compute = config.compute
    gpus = gpus_each(
        compute.gpus_per_worker, resources, "compute: {gpus_per_worker: 1, workers: 8}"
    )
    slots = int(resources.gpus // gpus) if gpus else max(1, int(resources.cpus) // 2)
    workers = compute.workers or min(batches, max(1, slots))
    needs = {"CPU": compute.cpus_per_worker or 1.0}
    for name, each, there in (("CPU", needs["CPU"], resources.cpus), ("GPU", gpus, resources.gpus)):
        if resources.fixed and workers * each > there:
            raise UserError(
                f"{counted(workers, 'worker')} need {workers * each:g} {name}s, but this machine "
                f"has {there:g}; reduce compute.workers, or connect to a cluster with RAY_ADDRESS"
            )
    if gpus:
        needs["GPU"] = gpus
    return ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=needs)


@contextmanager
def _watch(
    output: str, missing: list[SupportRef], stale: dict[Key, StoredObject]
) -> Iterator[None]:
    """Show the number of finished fits while the workers run, by listing the output."""
    wanted = {(s.shots, s.seed) for s in missing}
    stop = threading.Event()
    with Tracker("fitting", len(missing), "fits", STARTING_FITS) as tracker:

        def poll() -> None:
            while not stop.wait(1.0):
                # A failed listing is tried again a second later; only the display needs it.
                with suppress(UserError):
                    tracker.update(len(wanted & replaced(stale, output)))

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        tracker.update(len(wanted & replaced(stale, output)))


def _write_table(supports: list[SupportRef], output: str) -> None:
    rows = [
        {
            "shots": str(s.shots),
            "seed": s.seed,
            "uri": fit_uri(output, s.shots, s.seed),
            "support_images": len(s.images),
            "support_digest": s.digest,
        }
        for s in supports
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    storage.write_bytes(storage.join(output, "fits.parquet"), sink.getvalue())
