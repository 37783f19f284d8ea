"""The pipeline: rows of all units, and the processes that make them."""

import json
import logging
from typing import Any

import pyarrow as pa
import pytest

from sdmad.archive.listing import list_archive
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.units import cut_units
from sdmad.errors import UserError
from sdmad.runtime.cluster import MODEL_ENVIRONMENT, Resources, connect
from sdmad.scoring import pipeline
from sdmad.scoring.actor import DetectorActor
from sdmad.scoring.pipeline import Operators
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.tables import ScoreColumns
from sdmad.scoring.transport import enclosed
from tests.helpers import encoded, write_tar

pytestmark = pytest.mark.usefixtures("ray_cluster")
READING = {"spec": ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3), "decode_seconds": 60.0}


def light_detector() -> type:
    """An actor that loads nothing, and adds its environment to the rows.

    A class of its own each time, so that Ray sends it by value.
    """

    class LightActor:
        def __call__(self, batch: dict[str, Any]) -> pa.Table:
            import os

            columns = {name: list(batch[name]) for name in ("unit", "index")}
            shown = json.dumps(dict(os.environ))
            return enclosed(pa.table(columns | {"env": [shown] * len(batch["unit"])}))

    return LightActor


def test_units_run_in_portions_and_detectors_have_their_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(pipeline, "UNITS_AT_ONCE", 1)
    for k in range(2):
        write_tar(tmp_path / f"{k}.tar", {f"{j}.png": encoded(j) for j in range(5)})
    operators = Operators(read_and_decode, READING, light_detector(), ())
    units = list(cut_units(str(tmp_path), list_archive(str(tmp_path))))
    config = PipelineConfig(batch_size=2).fill(connect())
    rows, environments = [], []
    for batch in pipeline.stream_rows(units, operators, config, "test"):
        rows += zip(batch["unit"].to_pylist(), batch["index"].to_pylist(), strict=True)
        environments += [json.loads(text) for text in batch["env"].to_pylist()]
    assert len(units) == 2
    assert len(rows) == len(set(rows)) == 10 + 2, "each image once, and the end of each unit"
    order = [unit for unit, _ in rows]
    assert order == sorted(order, key=[unit.id for unit in units].index)
    for environment in environments:
        assert MODEL_ENVIRONMENT.items() <= environment.items()


@pytest.mark.parametrize("who", ["reader", "detector"])
def test_a_mistake_of_a_reader_or_a_detector_is_one_sentence(tmp_path, capfd, caplog, who) -> None:
    """And Ray prints nothing of its own."""
    # Ray Data prints by a handler that may have been made before stderr was captured.
    logging.getLogger("ray.data").addHandler(caplog.handler)
    path = write_tar(tmp_path / "s.tar", {"1.png": encoded()})
    units = list(cut_units(str(tmp_path), list_archive(str(tmp_path))))
    message = "there is no detector at"
    columns = ScoreColumns(["one"], 1, per_seed=False)
    actor: type = DetectorActor
    arguments: tuple = (str(tmp_path / "no"), None, columns, 1, False, "auto")
    if who == "reader":
        actor, arguments = light_detector(), ()
        path.write_bytes(path.read_bytes() + bytes(512))
        message = r"s\.tar has changed since it was planned"
    operators = Operators(read_and_decode, READING, actor, arguments)
    stream = pipeline.stream_rows(units, operators, PipelineConfig().fill(connect()), "t")
    with pytest.raises(UserError, match=message) as raised:
        list(stream)
    assert "\n" not in str(raised.value)
    logging.getLogger("ray.data").removeHandler(caplog.handler)
    shown = capfd.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert not caplog.records


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
