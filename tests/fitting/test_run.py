"""Training runs end to end on Ray Train."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import torch

from sdmad import storage
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.fits import deserialize, list_fits
from sdmad.fitting import run
from sdmad.fitting.config import ComputeConfig, TrainConfig
from sdmad.fitting.reading import check_names
from sdmad.fitting.run import train_seeds
from sdmad.fitting.worker import share_cores
from sdmad.runtime.cluster import MODEL_ENVIRONMENT
from sdmad.storage.run_record import read_record
from tests.conftest import QUICK
from tests.helpers import ROOT, workers

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


@pytest.fixture(scope="module")
def on_s3(archive, s3) -> str:
    """The archive on S3."""
    for path in archive.iterdir():
        storage.write_bytes(f"{s3}/train-archive/{path.name}", path.read_bytes())
    return f"{s3}/train-archive"


@pytest.fixture(scope="module")
def threads(tmp_path_factory) -> Path:
    """A folder with the threads that each rank of `trained` computed in."""
    return tmp_path_factory.mktemp("threads")


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory) -> Path:
    """The folder in which `trained` ran."""
    return tmp_path_factory.mktemp("working")


@pytest.fixture(scope="module")
def trained(on_s3, s3, threads, working_folder) -> str:
    """The whole grid of `config`, from S3 to S3; its fits are never changed by tests."""

    def observed(settings: dict[str, Any]) -> None:
        import ray.train
        import torch

        from sdmad.fitting.worker import fit_loop

        fit_loop(settings)
        rank = ray.train.get_context().get_world_rank()
        (threads / str(rank)).write_text(str(torch.get_num_threads()))

    output = f"{s3}/train-output"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit_loop", observed)
        patch.chdir(working_folder)
        assert train_seeds(config(on_s3), output) == 6
    return output


def test_two_workers_make_the_whole_grid_and_the_same_command_makes_nothing(on_s3, trained) -> None:
    grid = {(shots, seed) for shots in (1, 2) for seed in range(3)}
    assert set(list_fits(trained)) == grid
    table = pq.read_table(io.BytesIO(storage.read_bytes(f"{trained}/fits.parquet"))).to_pylist()
    assert {(int(row["shots"]), row["seed"]) for row in table} == grid
    assert all(storage.exists(row["uri"]) for row in table)
    done = read_record(trained)
    assert done["status"] == "finished"
    assert done["fits_made"] + done["fits_skipped"] == 6
    content = storage.read_bytes(f"{trained}/fits/shots=2/seed=1.safetensors")
    provenance = deserialize(content, "x").provenance
    assert (provenance.shots, provenance.seed, provenance.learner) == (2, 1, QUICK)
    assert Detector.load(f"{trained}/fits/shots=2").seeds == [0, 1, 2]
    assert train_seeds(config(on_s3), trained) == 0
    again = read_record(trained)
    assert (again["status"], again["fits_made"], again["fits_skipped"]) == ("finished", 0, 6)


def test_a_killed_worker_loses_only_its_unfinished_fits(archive, training_run, tmp_path) -> None:
    """At an output that has fits already: only what is missing is made, before and after."""
    output = tmp_path / "train"
    shutil.copytree(training_run, output)
    (output / "fits/shots=2/seed=1.safetensors").unlink()
    before = times(output)
    assert len(before) == 2
    compute = ComputeConfig(workers=1, cpus_per_worker=0.5, fits_per_batch=1)
    settings = config(archive, shots=[2], seeds="0:5", compute=compute)
    killed: dict[str, Any] = {}

    def kill_after_the_first_fit() -> None:
        while len(list((output / "fits/shots=2").glob("*.safetensors"))) == len(before):
            time.sleep(0.01)
        killed["kept"] = times(output)
        (worker,) = workers("RayTrainWorker")
        killed["environment"] = worker.environ()
        worker.kill()

    thread = threading.Thread(target=kill_after_the_first_fit)
    thread.start()
    assert train_seeds(settings, str(output)) == 3
    thread.join()
    assert MODEL_ENVIRONMENT.items() <= killed["environment"].items()
    after = times(output)
    assert len(before) < len(killed["kept"]) < len(after) == 5
    assert {p: t for p, t in after.items() if p in killed["kept"]} == killed["kept"]
    assert before.items() <= after.items()
    done = read_record(str(output))
    assert (done["fits_made"], done["fits_skipped"]) == (3, 2)
    assert Detector.load(str(output)).seeds == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("joined")
def test_a_stopped_job_leaves_no_folder_behind(archive, tmp_path) -> None:
    """SIGTERM while a worker fits: neither in the working directory, nor where temporary files
    go."""
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    shared = Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - only listed
    before = set(shared.glob("sdmad-train*"))
    slow = QUICK.model_copy(update={"steps": 2000})
    compute = ComputeConfig(workers=1, cpus_per_worker=0.5)
    settings = tmp_path / "config.yaml"
    settings.write_text(config(archive, learner=slow, compute=compute).model_dump_json())
    command = [sys.executable, str(ROOT / "jobs/train_seeds.py"), "--config", str(settings)]
    places = {"TMPDIR": tmp_path / "temporary", "PYTHONPATH": ROOT}
    job = subprocess.Popen(
        [*command, "--output", str(tmp_path / "train")],
        cwd=tmp_path / "here",
        env=os.environ | {name: str(path) for name, path in places.items()},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 200
        while not workers("RayTrainWorker"):
            assert job.poll() is None, job.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        job.terminate()
        _, shown = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 128 + signal.SIGTERM, shown
    assert shown.splitlines()[-1] == "stopped; run the same command again to resume"
    assert not list((tmp_path / "here").iterdir())
    assert not list((tmp_path / "temporary").rglob("*sdmad*"))
    assert set(shared.glob("sdmad-train*")) == before, "workers have another TMPDIR"


def times(output: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in output.rglob("*.safetensors")}


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_share_the_cores_of_their_node(ranks, monkeypatch) -> None:
    class Context:
        def get_local_world_size(self) -> int:
            return ranks

    monkeypatch.setattr(ray.train, "get_context", Context)
    before = torch.get_num_threads()
    try:
        share_cores()
        cores = int(ray.cluster_resources()["CPU"])
        assert torch.get_num_threads() == max(1, cores // ranks)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("trained")
def test_a_run_leaves_no_folder_behind(working_folder) -> None:
    assert not list(working_folder.iterdir())


@pytest.mark.usefixtures("trained")
def test_the_two_ranks_of_a_run_share_the_cores_of_this_machine(threads) -> None:
    share = max(1, int(ray.cluster_resources()["CPU"]) // 2)
    assert [(threads / str(rank)).read_text() for rank in range(2)] == [str(share)] * 2


def test_an_output_with_fits_of_another_learner_is_refused(on_s3, trained) -> None:
    other = QUICK.model_copy(update={"steps": 11})
    with pytest.raises(UserError, match="holds fits with another learner"):
        train_seeds(config(on_s3, learner=other), trained)


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


def test_a_table_of_another_archive_is_refused_with_names_of_both(archive) -> None:
    names = [("shard-0.tar", f"{k}.png") for k in range(9)]
    with pytest.raises(UserError, match="9 of 9 images of split pool") as raised:
        check_names(names, str(archive))
    assert "shard-0.tar/0.png, shard-0.tar/1.png, shard-0.tar/2.png and 6 more" in str(raised.value)
    assert "phantoms-0000.tar, phantoms-0001.tar" in str(raised.value)
