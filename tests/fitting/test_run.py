"""Training runs end to end on Ray Train."""

import io
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from sdmad import storage
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.fits import deserialize, list_fits
from sdmad.fitting.config import ComputeConfig, TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.fitting.worker import share_cores
from sdmad.runtime.cluster import THREADS_SLEEP
from tests.conftest import QUICK

pytestmark = pytest.mark.usefixtures("ray_cluster")


def config(archive: Path | str, **changes: object) -> TrainConfig:
    base = {
        "archive": str(archive),
        "labels": f"{archive}/labels.csv",
        "catalog": "phantoms",
        "learner": QUICK,
        "shots": [1, 2],
        "seeds": "0:3",
        "compute": ComputeConfig(workers=2, cpus_per_worker=0.5, fits_per_batch=2),
    }
    return TrainConfig.model_validate(base | changes)


def times(output: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in output.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def trained(archive, tmp_path_factory) -> Path:
    """A run of the whole grid of `config`; tests must not change it."""
    output = tmp_path_factory.mktemp("trained") / "train"
    assert train_seeds(config(archive), str(output)) == 6
    return output


def test_two_workers_make_the_whole_grid(trained) -> None:
    grid = {(shots, seed) for shots in (1, 2) for seed in range(3)}
    assert set(list_fits(str(trained))) == grid
    table = pq.read_table(trained / "fits.parquet").to_pylist()
    assert {(row["shots"], row["seed"]) for row in table} == grid
    assert all(Path(row["uri"]).is_file() for row in table)
    run = json.loads((trained / "run.json").read_text())
    assert (run["status"], run["fits_made"], run["fits_skipped"]) == ("finished", 6, 0)
    provenance = deserialize(
        (trained / "fits/shots=2/seed=1.safetensors").read_bytes(), "x"
    ).provenance
    assert (provenance.shots, provenance.seed, provenance.learner) == (2, 1, QUICK)


def test_a_second_run_with_more_seeds_makes_only_missing_fits(archive, trained, tmp_path) -> None:
    output = Path(shutil.copytree(trained, tmp_path / "train"))
    before = times(output)
    lost = output / "fits/shots=1/seed=2.safetensors"
    lost.unlink()
    assert train_seeds(config(archive, seeds="0:4"), str(output)) == 3
    after = times(output)
    made = {output / f"fits/shots={shots}/seed=3.safetensors" for shots in (1, 2)} | {lost}
    assert {path for path in after if after[path] != before.get(path)} == made
    run = json.loads((output / "run.json").read_text())
    assert (run["fits_made"], run["fits_skipped"]) == (3, 5)
    assert Detector.load(str(output / "fits/shots=2")).num_seeds == 4


def test_archive_and_output_can_be_on_s3(archive, s3) -> None:
    for path in archive.iterdir():
        storage.write_bytes(f"{s3}/train-archive/{path.name}", path.read_bytes())
    output = f"{s3}/train-output"
    assert train_seeds(config(f"{s3}/train-archive", shots=[1], seeds="0,5"), output) == 2
    assert Detector.load(output).seeds == [0, 5]
    table = pq.read_table(io.BytesIO(storage.read_bytes(f"{output}/fits.parquet")))
    assert table.num_rows == 2


def test_a_killed_worker_loses_only_its_unfinished_fits(archive, tmp_path) -> None:
    output = tmp_path / "train"
    slow = QUICK.model_copy(update={"steps": 150})
    compute = ComputeConfig(workers=1, cpus_per_worker=0.5, fits_per_batch=1)
    settings = config(archive, learner=slow, shots=[1], seeds="0:5", compute=compute)
    killed: dict[str, Any] = {}

    def kill_after_the_first_fit() -> None:
        while not times(output):
            time.sleep(0.01)
        killed["kept"] = times(output)
        for process in psutil.process_iter(["cmdline"]):
            if "RayTrainWorker" in " ".join(process.info["cmdline"] or []):
                killed["environment"] = process.environ()
                os.kill(process.pid, signal.SIGKILL)
                killed["worker"] = process.pid

    thread = threading.Thread(target=kill_after_the_first_fit, daemon=True)
    thread.start()
    assert train_seeds(settings, str(output)) == 5
    assert "worker" in killed
    assert THREADS_SLEEP.items() <= killed["environment"].items()
    assert len(list_fits(str(output))) == 5
    kept = killed["kept"]
    assert {p: t for p, t in times(output).items() if p in kept} == kept


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_share_the_cores_of_their_node(workers, tmp_path) -> None:
    def loop() -> None:
        share_cores()
        rank = ray.train.get_context().get_world_rank()
        (tmp_path / str(rank)).write_text(str(torch.get_num_threads()))

    TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(name="threads", storage_path=str(tmp_path / "train")),
    ).fit()
    threads = max(1, int(ray.cluster_resources()["CPU"]) // workers)
    assert [(tmp_path / str(rank)).read_text() for rank in range(workers)] == [
        str(threads)
    ] * workers


def test_an_output_with_fits_of_another_learner_is_refused(archive, trained) -> None:
    other = QUICK.model_copy(update={"steps": 11})
    with pytest.raises(UserError, match="holds fits with another learner"):
        train_seeds(config(archive, learner=other), str(trained))


def test_all_names_of_the_pool_are_checked_against_the_archive(archive, tmp_path) -> None:
    """Also those of images that no seed draws."""
    lines = (archive / "labels.csv").read_text().splitlines()
    pool = [k for k, line in enumerate(lines) if ",pool," in line][-10:]
    for k in pool:
        lines[k] = lines[k].replace("pool-", "Pool-", 1)
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="10 of 200 images of split pool are not in") as raised:
        train_seeds(config(archive, labels=str(labels), shots=[1]), str(tmp_path / "train"))
    assert "Pool-" in str(raised.value)
    assert " meant by " in str(raised.value)
    assert "and 7 more" in str(raised.value)


def test_a_table_of_another_archive_is_refused_with_names_of_both(archive, tmp_path) -> None:
    labels = tmp_path / "labels.csv"
    text = (archive / "labels.csv").read_text().replace("phantoms-", "shard-")
    labels.write_text(text)
    with pytest.raises(UserError, match="200 of 200 images of split pool") as raised:
        train_seeds(config(archive, labels=str(labels), shots=[1]), str(tmp_path / "train"))
    assert "phantoms-0000.tar, phantoms-0001.tar" in str(raised.value)


def test_names_with_a_leading_dot_are_found(archive, tmp_path) -> None:
    labels = tmp_path / "labels.csv"
    text = (archive / "labels.csv").read_text().replace(".tar,", ".tar,./")
    labels.write_text(text)
    settings = config(archive, labels=str(labels), shots=[1], seeds="0:1")
    assert train_seeds(settings, str(tmp_path / "train")) == 1
