"""Connecting to Ray."""

import subprocess
import sys

from tests.helpers import ROOT

LISTENING = """
import psutil, ray
from sdmad.cluster import connect
connect()
ray.get(ray.remote(lambda: 1).remote())
me = psutil.Process()
for process in [me, *me.children(recursive=True)]:
    for connection in process.net_connections("inet"):
        if connection.status == psutil.CONN_LISTEN:
            print(connection.laddr.ip)
"""


def test_nothing_of_a_local_ray_listens_beyond_loopback() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", LISTENING], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    addresses = shown.stdout.split()
    assert len(addresses) >= 5, shown.stderr
    assert {a.removeprefix("::ffff:") for a in addresses} == {"127.0.0.1"}
