"""Shared fixtures: one Ray, one S3 server, one small archive and one small training run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.demo.local_s3 import local_s3
from sdmad.fits import Provenance, fit_uri, serialize
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.catalog import load_catalog
from sdmad.inputs.labels import load_labels
from sdmad.method.augment import AugmentConfig, SupportImages
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.model import DecisionRule, SignModel
from sdmad.phantoms.task import write_archive
from sdmad.runtime.cluster import connect
from sdmad.storage import s3 as s3_access
from tests.helpers import S3_SECRET, killers, support_images

# Fixtures of tests that run Ray, and files whose tests start it in processes of their own.
RAY_FIXTURES = {"ray_cluster", "joined"}
RAY_FILES = ("test_readme.py", "test_cluster.py", "test_chaos.py", "tests/demo/", "tests/cluster/")
QUICK = LearnerConfig(steps=10, augment=AugmentConfig(views=2, flip=False), category_names=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run Ray stay in one process, one after the other."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & RAY_FIXTURES or any(part in str(item.path) for part in RAY_FILES):
            item.add_marker(pytest.mark.xdist_group("ray"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Of two processes, the one without Ray gives way: the tests with Ray take the longest.

    It has one thread: the threads of a model at this niceness still double the time of a test with
    Ray, which waits for both cores.
    """
    beside = "PYTEST_XDIST_WORKER" in os.environ and not ray.is_initialized()
    if beside and not item.get_closest_marker("xdist_group") and not os.nice(0):
        os.nice(10)
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files and folders of this process go where pytest clears up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield


@pytest.fixture(scope="session")
def backbone():
    return load_backbone(BackboneConfig(), "cpu")


@pytest.fixture(scope="session")
def catalog():
    return load_catalog("phantoms")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket `test` on a server of this machine, for the whole session.

    The server takes any credentials; those of the session can be searched for.
    """
    with local_s3("test"), pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        environment.setenv("AWS_SESSION_TOKEN", S3_SECRET)
        yield "s3://test"


@pytest.fixture(scope="session")
def ray_cluster(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of this machine; started after the S3 server, whose address workers inherit.

    Its workers know the formats `CRASH` and `HANG`. It exports counters every second and asks every
    0.2 s whether the workers of a training run are done, which takes Ray 2 s by default.
    """
    with pytest.MonkeyPatch.context() as environment:
        # What workers know of it must come from the jobs.
        environment.delenv("OMP_WAIT_POLICY", raising=False)
        # Ray's workers give way to all other processes by default.
        environment.setenv("RAY_worker_niceness", "0")
        environment.setenv("RAY_metrics_report_interval_ms", "1000")
        environment.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        environment.setenv("PYTHONPATH", killers(tmp_path_factory.mktemp("formats")))
        connect()
    yield
    ray.shutdown()


@pytest.fixture
def joined(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs in processes of their own join the Ray of this session: its start is not theirs."""
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    # Without it Ray takes a loopback address for that of another interface.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in two shards (200 and 100 images) with labels.csv; never changed by tests."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(str(folder), pool=200, test=100)
    return folder


@pytest.fixture(scope="session")
def supports(archive: Path, catalog, backbone) -> list[SupportImages]:
    """Supports of seeds 0, 1, 2 at two shots."""
    table = load_labels(str(archive / "labels.csv"), catalog.category_names)
    refs = [SupportRef.draw(table, 2, seed) for seed in range(3)]
    return [support_images(str(archive), ref, backbone.spec) for ref in refs]


@pytest.fixture(scope="session")
def fitted(supports, backbone, catalog) -> tuple[SignModel, DecisionRule]:
    """Three quick fits at two shots, made in one batch; never changed by tests."""
    return fit_batch(backbone, catalog, supports, QUICK)


@pytest.fixture(scope="session")
def training_run(
    tmp_path_factory: pytest.TempPathFactory, archive, fitted, supports, backbone, catalog
) -> Path:
    """A training run with the fits of `fitted`; never changed by tests."""
    output = tmp_path_factory.mktemp("train")
    model, rule = fitted
    labels = load_labels(str(archive / "labels.csv"), catalog.category_names)
    for index, support in enumerate(supports):
        provenance = Provenance.of(
            backbone,
            catalog=catalog,
            learner=QUICK,
            shots=support.shots,
            seed=support.seed,
            support_images=len(support.keys),
            support_digest=SupportRef.draw(labels, support.shots, support.seed).digest,
        )
        path = Path(fit_uri(str(output), support.shots, support.seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(serialize(model, rule, index, provenance))
    return output


@pytest.fixture
def own_archive(archive: Path, tmp_path: Path) -> Path:
    """A copy of the archive that a test may change."""
    return Path(shutil.copytree(archive, tmp_path / "archive"))


@pytest.fixture
def bytes_asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every answer that S3 gives to a read while the test runs."""
    asked: list[int] = []
    original = s3_access.read

    def counted(*arguments: Any) -> bytes:
        content = original(*arguments)
        asked.append(len(content))
        return content

    monkeypatch.setattr(s3_access, "read", counted)
    return asked
