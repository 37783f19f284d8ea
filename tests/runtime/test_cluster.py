"""Connecting to Ray."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
import ray
import ray.data
import ray.train
from ray._private import ray_constants
from ray.exceptions import AuthenticationError
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from sdmad.errors import UserError
from sdmad.runtime import cluster
from sdmad.runtime.cluster import Resources, connect, gpus_each, kept_in_memory, mistakes_surface


@pytest.mark.usefixtures("ray_cluster")
def test_local_ray_listens_on_loopback_only() -> None:
    """All processes of this session: Ray's, its workers', the S3 server."""
    ray.get(ray.remote(lambda: 1).remote())
    me, addresses = psutil.Process(), []
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            listening = [c for c in process.net_connections("inet") if c.status == "LISTEN"]
            addresses += [connection.laddr.ip for connection in listening]
    assert len(addresses) >= 5
    assert {a.removeprefix("::ffff:") for a in addresses} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("wanted", "resources", "each"),
    [
        (None, Resources(8, 2), 1.0),
        (None, Resources(8, 0, fixed=True), 0.0),
        (0.5, Resources(0, 0), 0.5),
        (0.0, Resources(8, 2), 0.0),
    ],
)
def test_gpus_are_those_wanted_else_those_of_the_cluster(wanted, resources, each, capsys) -> None:
    assert gpus_each(wanted, resources, "--gpus") == each
    assert capsys.readouterr().err == ""


def test_a_notice_says_how_to_request_gpus_from_a_cluster_that_can_grow(capsys) -> None:
    assert gpus_each(None, Resources(0, 0), "--detector-gpus 1") == 0
    assert "request one with --detector-gpus 1" in capsys.readouterr().err


@pytest.mark.parametrize("address", [None, "", " ", "local"])
def test_without_an_address_ray_starts_here_and_listens_on_loopback(monkeypatch, address) -> None:
    """What the test above sees holds for an empty address, too."""
    started = {}

    def init(**arguments: object) -> None:
        on_loopback = not ray_constants.ENABLE_RAY_CLUSTER
        started.update(arguments, on_loopback=on_loopback, environment="RAY_ADDRESS" in os.environ)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setenv("RAY_ADDRESS", address or "")
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS")
    assert connect().fixed
    assert (started["address"], started["include_dashboard"]) == ("local", False)
    assert started["on_loopback"]
    assert not started["environment"]


@pytest.fixture
def not_connected(monkeypatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "HEAD_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray head answers at RAY_ADDRESS=127.0.0.1:1 .*connection refused"),
        ("ray://127.0.0.1:1", "no Ray head answers at RAY_ADDRESS=ray://127.0.0.1:1"),
        ("no-such-host.invalid:6379", "no Ray head answers at RAY_ADDRESS=no-such-host"),
        ("127.0.0.1:99999999", "no Ray head answers at"),
        ("http://127.0.0.1:8265", "an address for `ray job submit`; unset it"),
        ("https://head", "an address for `ray job submit`; unset it"),
        ("nonsense", "Ray cannot connect to RAY_ADDRESS=nonsense: Invalid address"),
    ],
)
def test_an_address_without_a_head_is_one_sentence(
    not_connected, monkeypatch, address, message
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=message) as raised:
        connect()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(15), "what answers at RAY_ADDRESS=127.0.0.1:.* is not a running Ray head"),
        (RuntimeError("Version mismatch: 2.9\nmore"), "Ray cannot connect to .*mismatch: 2.9$"),
        (ConnectionError("gone"), "Ray cannot connect to RAY_ADDRESS=127.0.0.1:.*: gone"),
        (AuthenticationError("no token\nmore"), "Ray cannot connect to .*: no token"),
    ],
)
def test_a_refusal_of_ray_is_one_sentence(not_connected, monkeypatch, error, message) -> None:
    def init(**arguments: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match=message):
            connect()


def test_a_head_that_starts_late_is_awaited(monkeypatch, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    heads: list[socket.socket] = []
    late = threading.Timer(0.5, lambda: heads.append(socket.create_server(("127.0.0.1", port))))
    late.start()
    cluster._wait_for_head(f"127.0.0.1:{port}")
    late.join()
    heads[0].close()
    assert "no Ray head answers at 127.0.0.1" in capsys.readouterr().err


def test_a_folder_too_long_for_sockets_is_refused(not_connected, monkeypatch) -> None:
    def init(**arguments: object) -> None:
        raise OSError(
            "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes"
        )

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/long")
    with pytest.raises(UserError, match=r"=/long is too long for Ray's sockets; .* at most 41"):
        connect()


SENTENCE = "s3://b/x has changed; score it to another output"


class Mistaken:
    """An actor that makes a mistake in its constructor, or later."""

    def __init__(self, at_once: bool) -> None:
        if at_once:
            raise UserError(SENTENCE)

    def __call__(self, batch: object = None) -> None:
        raise UserError(SENTENCE)


def mistaken(*arguments: object) -> None:
    raise UserError(SENTENCE)


def mistaken_later(batch: object) -> object:
    yield batch
    raise UserError(SENTENCE)


def over_data(work: Callable[..., object], **options: object) -> None:
    list(ray.data.from_items([1, 2]).map_batches(work, **options).iter_batches())


def train(work: Callable[..., object]) -> None:
    TorchTrainer(
        work,
        train_loop_config={},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(name="mistake", **kept_in_memory()),
    ).fit()


ONE = ray.data.ActorPoolStrategy(size=1)


@pytest.mark.parametrize(
    "work",
    [
        lambda: ray.get(ray.remote(mistaken).remote()),
        lambda: ray.get(ray.remote(lambda x: x).remote(ray.remote(mistaken).remote())),
        lambda: ray.get(ray.remote(Mistaken).remote(True).__call__.remote()),
        lambda: ray.get(ray.remote(Mistaken).remote(False).__call__.remote()),
        lambda: over_data(mistaken),
        lambda: over_data(mistaken_later),
        lambda: over_data(Mistaken, fn_constructor_args=(True,), compute=ONE),
        lambda: over_data(Mistaken, fn_constructor_args=(False,), compute=ONE),
        lambda: train(mistaken),
    ],
    ids=[
        *("task", "input of a task", "constructor", "actor"),
        *("map", "map that yields", "constructor of map", "actor of map", "rank"),
    ],
)
def test_a_mistake_in_a_worker_is_the_same_sentence(ray_cluster, work) -> None:
    with pytest.raises(UserError) as raised, mistakes_surface():
        work()
    assert type(raised.value) is UserError
    assert str(raised.value) == SENTENCE


def test_other_errors_of_a_worker_keep_their_traceback(ray_cluster) -> None:
    with pytest.raises(ZeroDivisionError, match="ray::"), mistakes_surface():
        ray.get(ray.remote(lambda: 1 / 0).remote())
