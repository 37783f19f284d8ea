"""The pipeline: rows of all units, and the processes that make them."""

import psutil
import pytest

from sdmad import Detector
from sdmad.archive.listing import list_archive
from sdmad.archive.units import cut_units
from sdmad.runtime.cluster import Resources, connect
from sdmad.scoring import pipeline
from sdmad.scoring.actor import DETECTOR_ENVIRONMENT
from sdmad.scoring.pipeline import DetectorSource
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.tables import ScoreColumns

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_units_run_in_portions_and_detectors_have_their_environment(
    archive, training_run, monkeypatch
) -> None:
    monkeypatch.setattr(pipeline, "UNITS_AT_ONCE", 1)
    detector = Detector.load(str(training_run), "cpu")
    source = DetectorSource(str(training_run), None, detector.spec)
    columns = ScoreColumns(detector.catalog.category_names, detector.num_seeds, per_seed=False)
    units = list(cut_units(str(archive), list_archive(str(archive))))
    config = PipelineConfig().fill(connect())
    rows, environments = [], []
    for batch in pipeline.stream_scores(units, source, columns, config, "test"):
        rows += zip(batch["unit"].to_pylist(), batch["index"].to_pylist(), strict=True)
        environments += [
            process.environ()
            for process in psutil.process_iter(["cmdline"])
            if any("DetectorActor" in part for part in process.info["cmdline"] or [])
        ]
    assert len(units) == 2
    assert len(rows) == len(set(rows)) == 300 + 2, "each image once, and the end of each unit"
    order = [unit for unit, _ in rows]
    assert order == sorted(order, key=[unit.id for unit in units].index)
    assert environments
    for environment in environments:
        assert DETECTOR_ENVIRONMENT.items() <= environment.items()


@pytest.mark.parametrize(
    ("resources", "room"),
    [
        (Resources(16, 1, fixed=True), (15, 1)),
        (Resources(2, 0, fixed=True), (3, 1)),
        (Resources(32, 4), (28, 4)),
    ],
)
def test_each_gpu_has_one_detector_and_readers_use_the_remaining_cpus(resources, room) -> None:
    assert PipelineConfig().fill(resources).room(resources) == room


def test_a_pool_larger_than_the_cluster_is_counted_as_far_as_it_fits() -> None:
    filled = PipelineConfig(detectors=(1, 8), detector_gpus=1).fill(Resources(0, 0))
    assert filled.room(Resources(16, 2)) == (30, 2)
    assert filled.room(Resources(0, 0)) == (1, 1)
