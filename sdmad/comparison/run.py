"""A comparison on Ray: actors hold the test images and take one (shots, seed) after another.

`cells/shots=<k>/seed=<n>/<method>-<digest>.parquet` has the metrics of one method on one support,
and `<method>-<digest>.scores.parquet` beside it the scores of the test images; the digest is over
the method's settings. Cells that exist are not computed again. So the same command resumes, and
after a method is added or changed only its cells are computed.
"""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import torch

from sdmad import logs, storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.loading import check_backbone, load_backbone
from sdmad.baselines import BASELINES, READ_BLOCKS
from sdmad.comparison import code
from sdmad.comparison.cell import Bench, TestImages, in_order, metrics
from sdmad.comparison.config import CompareConfig, Variant
from sdmad.comparison.scores import SUFFIX, write_scores, write_test
from sdmad.errors import UserError
from sdmad.fits import code_version
from sdmad.fitting.config import parse_numbers
from sdmad.fitting.encoded import CONFIGURATION, Chosen, check_archive, check_views
from sdmad.fitting.reading import Image, fetch, read_images, refuse
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.catalog import Catalog, load_catalog
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.method.learner import LearnerConfig
from sdmad.runtime.cluster import (
    MODEL_ENVIRONMENT,
    Resources,
    connect,
    gpus_each,
    mistakes_surface,
    node_cpus,
)
from sdmad.runtime.progress import STARTING_FITS, Tracker
from sdmad.scoring.chosen import EncodedArchive
from sdmad.storage import parquet, run_record

RESTARTS = 3
_PATH = re.compile(r"shots=(\d+)/seed=(\d+)/([^/]+)\.parquet$")


def compare(config: CompareConfig, output: str) -> pd.DataFrame:
    """Compute every cell that is missing at `output`; returns the metrics of all cells.

    They have one row for each (method, shots, seed, protocol, metric), and are also written to
    `results.parquet`. Raises `UserError` if configuration, data and output do not match.
    """
    begin = time.monotonic()
    archive = storage.resolve(config.archive)
    catalog = load_catalog(config.catalog)
    for name in config.names:
        config.variants.get(name, Variant()).changed(config.learner).check(catalog.category_names)
    check_backbone(config.backbone)
    encoded = _open(config, archive)
    if encoded is None:
        storage.check_readable(archive, "archive")
    storage.check_writable(output)
    labels = load_labels(storage.resolve(config.labels), catalog.category_names, archive)
    if not (labels.split == "test").any():
        raise UserError(f"the label table {config.labels} has no row with split 'test'")
    run_record.read_earlier(output, "compare")
    run_record.check_identity(output, _identity(config, archive, catalog, labels), "cells")
    seeds = parse_numbers(config.seeds, "seeds")
    supports = [SupportRef.draw(labels, shots, seed) for shots in config.shots for seed in seeds]
    names = {method: stored_name(config, method) for method in config.names}
    wanted = {(name, int(s.shots), s.seed) for s in supports for name in names.values()}
    done = list_cells(output) & wanted
    record: dict[str, Any] = {
        "job": "compare",
        "status": "running",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": _identity(config, archive, catalog, labels),
        "config": config.model_dump(mode="json"),
        "code_version": code_version(),
        "cells_total": len(wanted),
        "cells_skipped": len(done),
    }
    run_record.write_record(output, record)
    write_test(output, labels.where(labels.split == "test"))
    todo = [
        (s, [m for m, name in names.items() if (name, s.shots, s.seed) not in done])
        for s in supports
    ]
    todo = [(support, methods) for support, methods in todo if methods]
    if todo:
        record["test_images"] = _measure_missing(
            todo, config, catalog, labels, archive, output, encoded
        )
    results, codes = _collect(output, wanted)
    if told := code.sentence(codes, storage.join(output, "cells")):
        logs.notice(told)
    _write(results, storage.join(output, "results.parquet"))
    record |= {
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begin, 2),
    }
    run_record.write_record(output, record)
    return results


def cell_uri(output: str, method: str, shots: int, seed: int) -> str:
    """The URI of a cell; `method` is the method's name with its digest."""
    return storage.join(output, "cells", f"shots={shots}", f"seed={seed}", f"{method}.parquet")


def list_cells(output: str) -> set[tuple[str, int, int]]:
    """The (method with digest, shots, seed) of all cells that have metrics and scores."""
    found = set()
    for entry in storage.list_objects(storage.join(output, "cells")):
        match = _PATH.search(entry.uri)
        if match:
            found.add((match[3], int(match[1]), int(match[2])))
    return {
        (name, shots, seed) for name, shots, seed in found if (name + SUFFIX, shots, seed) in found
    }


def stored_name(config: CompareConfig, method: str) -> str:
    """The method's name with the digest of its settings."""
    return f"{method}-{config.digest(method)}"


def _identity(
    config: CompareConfig, archive: str, catalog: Catalog, labels: LabelTable
) -> dict[str, str]:
    """What must be the same in all runs that write to one output; methods and grid may change."""
    return {
        "archive": archive,
        "labels": labels.digest,
        "catalog": catalog.digest[:16],
        "backbone": str(config.backbone),
        "input": catalog.chosen_input(config.input).model_dump_json(),
        "source": "images" if config.activations is None else "activations",
    }


def _open(config: CompareConfig, archive: str) -> EncodedArchive | None:
    """The activations that take the place of images, if there are.

    Raises `UserError` if they are those of another archive, or if a method needs more.
    """
    if config.activations is None:
        return None
    encoded = EncodedArchive.open(storage.resolve(config.activations))
    check_archive(encoded, archive)
    deep = [name for name in config.names if name in READ_BLOCKS]
    if deep:
        names = " and ".join(filter(None, (", ".join(deep[:-1]), deep[-1])))
        raise UserError(
            f"{names} read{'s' * (len(deep) == 1)} earlier blocks of the image tower, "
            "and activations are those of the last one; leave out these methods, or leave out "
            "`activations` to read images"
        )
    check_views(config.learner)
    for name, learner in _learners(config).items():
        check_views(learner, f"the method {name}")
    return encoded


def _learners(config: CompareConfig) -> dict[str, LearnerConfig]:
    """The learners of SD-MAD and its variants, by name."""
    names = [name for name in config.names if name not in BASELINES]
    return {n: config.variants.get(n, Variant()).changed(config.learner) for n in names}


class Comparer:
    """An actor with all test images: it measures methods on supports and writes the cells.

    `chosen` are the stored activations of all images, in the place of pixels.

    A `UserError` while the backbone loads is raised at the first call, as in
    `sdmad.scoring.actor.DetectorActor`.
    """

    def __init__(
        self,
        config: CompareConfig,
        catalog: Catalog,
        test: list[tuple[str, str]],
        truth: np.ndarray,
        pixels: dict[Image, Any],
        output: str,
        threads: int,
        device: str | None,
        chosen: Chosen | None = None,
    ) -> None:
        logs.quieten()
        torch.set_num_threads(min(threads, node_cpus()))
        self.config, self.pixels, self.output, self.chosen = config, pixels, output, chosen
        stacked = np.zeros((len(test), 0, 0, 3), np.uint8)
        if chosen is None:
            images = fetch(test, pixels)
            stacked = np.stack([images[name] for name in test])
        self.mistake: UserError | None = None
        try:
            backbone = load_backbone(config.backbone, device)
        except UserError as mistake:
            self.mistake = mistake
            return
        encoded = None
        if chosen is not None:
            encoded = chosen.restore(test, backbone.image, backbone.device)
        images_of_test = TestImages(stacked, truth, encoded)
        self.bench = Bench(backbone, catalog, config.learner, config.budget, images_of_test)

    def measure(self, support: SupportRef, methods: list[str]) -> Iterator[str]:
        """Compute the cells of `methods` on one support; yields each method once it is written."""
        if self.mistake:
            raise self.mistake
        if self.chosen is None:
            images = support.with_pixels(fetch(support.images, self.pixels))
        else:
            images = support.with_activations(self.chosen, self.bench.backbone)
        for method in in_order(methods):
            variant = self.config.variants.get(method)
            scored = self.bench.score(method, variant, images)
            found = metrics(self.bench.test.truth, scored.scores, scored.anomaly)
            rows = [
                (method, support.shots, support.seed, protocol, metric, value)
                for (protocol, metric), value in found.items()
            ]
            columns = ["method", "shots", "seed", "protocol", "metric", "value"]
            stored = stored_name(self.config, method)
            uri = cell_uri(self.output, stored, int(support.shots), support.seed)
            write_scores(uri, self.bench.catalog.category_names, *scored)
            cell = code.stamped(_arrow(pd.DataFrame(rows, columns=columns)))
            storage.write_bytes(uri, parquet.encode(cell))
            yield method


def _measure_missing(
    todo: list[tuple[SupportRef, list[str]]],
    config: CompareConfig,
    catalog: Catalog,
    labels: LabelTable,
    archive: str,
    output: str,
    encoded: EncodedArchive | None,
) -> int:
    """Compute missing cells on as many actors as the cluster has room for.

    Returns the number of test images.
    """
    resources = connect()
    spec = _spec(config, catalog, encoded)
    test = labels.where(labels.split == "test")
    named = list(zip(test.archive.tolist(), test.member.tolist(), strict=True))
    wanted = {image for support, _ in todo for image in support.images} | set(named)
    chosen, pixels = None, dict[Image, Any]()
    if encoded is None:
        pixels, problems = read_images(wanted, archive, spec)
        refuse(problems)
    else:
        found = encoded.find(wanted, wanted)
        found.check(wanted, "the supports and split test", encoded.uri)
        found.check_wanted(sorted(wanted))
        chosen = ray.put(found.chosen)
    actors, gpus = _actors(resources, len(todo))
    device = None if gpus else "cpu"
    threads = max(1, int(resources.cpus) // actors)
    remote: Any = ray.remote(
        num_cpus=1,
        num_gpus=gpus,
        max_restarts=RESTARTS,
        max_task_retries=-1,
        runtime_env={"env_vars": MODEL_ENVIRONMENT},
    )(Comparer)
    # Ray starts an actor again only if its large arguments are still there (Ray issue 53727).
    kept = [ray.put(one) for one in (catalog, named, test.labels, pixels)]
    pool = [remote.remote(config, *kept, output, threads, device, chosen) for _ in range(actors)]
    waiting, made = list(todo), 0
    working: dict[Any, Any] = {}
    with (
        mistakes_surface(),
        Tracker("comparing", sum(len(m) for _, m in todo), "fits", STARTING_FITS) as tracker,
    ):
        while waiting or working:
            while waiting and pool:
                actor = pool.pop()
                cells = actor.measure.options(num_returns="streaming").remote(*waiting.pop(0))
                working[cells] = actor
            ready: Any = ray.wait(list(working), timeout=1.0)[0]
            for cells in ready:
                try:
                    ray.get(next(cells))
                    made += 1
                except StopIteration:
                    pool.append(working.pop(cells))
            tracker.update(made)
    return len(named)


def _actors(resources: Resources, supports: int) -> tuple[int, float]:
    gpus = gpus_each(None, resources, "RAY_ADDRESS of a cluster with GPU nodes")
    room = int(resources.gpus) if gpus else max(1, int(resources.cpus))
    return min(room, supports), gpus


def _spec(config: CompareConfig, catalog: Catalog, encoded: EncodedArchive | None) -> ImageSpec:
    """What is done to pixels; `UserError` if the activations are others or do not suffice."""
    backbone = load_backbone(config.backbone, "cpu")
    load_backbone.cache_clear()
    spec = catalog.chosen_input(config.input).apply(backbone.spec)
    if encoded is not None:
        blocks = [learner.adapter.image.blocks for learner in _learners(config).values()]
        most = max(blocks, default=1)
        encoded.stored.check(encoded.uri, backbone.identity, spec, most, CONFIGURATION)
    return spec


def _collect(output: str, wanted: set[tuple[str, int, int]]) -> tuple[pd.DataFrame, list[str]]:
    """The metrics of all cells, and the code that made each of them."""
    cells = [parquet.decode(storage.read_bytes(cell_uri(output, *key))) for key in sorted(wanted)]
    metrics_of = [cell.to_pandas() for cell in cells]
    return pd.concat(metrics_of, ignore_index=True), [code.made_by(cell) for cell in cells]


def _arrow(table: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(table, preserve_index=False)


def _write(table: pd.DataFrame, uri: str) -> None:
    storage.write_bytes(uri, parquet.encode(_arrow(table)))
