"""Connecting to Ray."""

from contextlib import suppress

import psutil
import pytest
import ray

from sdmad.runtime.cluster import Resources, gpus_each


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
