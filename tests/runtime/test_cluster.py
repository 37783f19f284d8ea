"""Connecting to Ray."""

import subprocess
import sys

import pytest

from sdmad.runtime.cluster import Resources, gpus_each
from tests.helpers import ROOT

LISTENING = """
import psutil, ray
from sdmad.runtime.cluster import connect
connect()
ray.get(ray.remote(lambda: 1).remote())
me = psutil.Process()
for process in [me, *me.children(recursive=True)]:
    for connection in process.net_connections("inet"):
        if connection.status == psutil.CONN_LISTEN:
            print(connection.laddr.ip)
"""


def test_local_ray_listens_on_loopback_only() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", LISTENING], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    addresses = shown.stdout.split()
    assert len(addresses) >= 5, shown.stderr
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
