"""Ray clusters of this machine's own processes: a head, with or without an autoscaler."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
)

BIN = Path(sys.executable).parent
EXAMPLE = Path(ray.__file__).parent / "autoscaler/_private/fake_multi_node/example.yaml"


WATCHER = """
import json, sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
for _ in sys.stdin:
    found = client.get_all_node_info(timeout=10).values()
    print(json.dumps([dict(n.resources_total) for n in found if n.state == 0]), flush=True)
"""


@dataclass(frozen=True)
class Head:
    """A running head: its environment for commands, and where its processes write."""

    address: str
    dashboard: str
    environment: dict[str, str]
    pid: int

    def run(self, *command: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        """A command of the environment's `bin`, as a user of this cluster gives it."""
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def kill(self, what: str) -> None:
        """SIGKILL the head's process of this name, or `all` of its processes."""
        processes = [*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)]
        for process in processes:
            with suppress(psutil.Error):
                if what in ("all", process.name()):
                    process.kill()

    @contextmanager
    def node_watch(self) -> Iterator[Callable[[], list[dict[str, float]]]]:
        """A function that tells the resources of every living node; it asks from a process with
        this cluster's token."""
        watcher = subprocess.Popen(
            [sys.executable, "-c", WATCHER, self.address],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def nodes() -> list[dict[str, float]]:
            assert watcher.stdin
            assert watcher.stdout
            watcher.stdin.write("?\n")
            watcher.stdin.flush()
            return json.loads(watcher.stdout.readline())

        try:
            yield nodes
        finally:
            watcher.kill()
            watcher.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def local_head(
    folder: Path, cpus: int, autoscaling: dict[str, Any] | None = None
) -> Iterator[Head]:
    """A head with token authentication and a dashboard, until the block ends."""
    port, dashboard, client, agent, grpc, metrics = free_ports(6)
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += [f"--num-cpus={cpus}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"]
    command += [f"--dashboard-agent-grpc-port={grpc}", f"--object-store-memory={300 << 20}"]
    address = f"{_own_address(environment)}:{port}"
    if autoscaling:
        command.append(f"--autoscaling-config={_write_config(folder, autoscaling, address)}")
        environment |= {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
    starting = {k: v for k, v in environment.items() if k != "RAY_ADDRESS"}
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=starting, stdout=log, stderr=log)
    before = {process.pid for process in psutil.process_iter()}
    try:
        found = Head(address, f"http://127.0.0.1:{dashboard}", environment, head.pid)
        _wait(found, head, folder)
        yield found
    finally:
        _end(head, port, before)


def _write_config(folder: Path, node_types: dict[str, Any], address: str) -> Path:
    if not EXAMPLE.exists():
        # Ray's wheel lacks the file of defaults that its own provider reads.
        EXAMPLE.write_text("{}\n")
    config = {
        "cluster_name": "local",
        "max_workers": 8,
        "provider": {
            "type": "fake_multinode",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "available_node_types": node_types
        | {FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(config))
    return path


def _own_address(environment: dict[str, str]) -> str:
    code = "import ray; print(ray.util.get_node_ip_address())"
    return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip()


def _wait(found: Head, head: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, (folder / "head.log").read_text()
        listed = found.run("ray", "job", "list", timeout=60)
        if listed.returncode == 0:
            return
        time.sleep(1)
    raise TimeoutError((folder / "head.log").read_text())


def end_marked(mark: str) -> None:
    """End every process whose environment has the variable `SDMAD_TEST` with this value."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SDMAD_TEST") == mark:
                process.kill()


def _end(head: subprocess.Popen[bytes], port: int, before: set[int]) -> None:
    """End every process of this cluster and of no other."""
    marks = (f":{port}", f"--port={port}", f"gcs_server_port={port}")
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.pid not in before and any(mark in line for mark in marks):
            with suppress(psutil.Error):
                for child in process.children(recursive=True):
                    child.kill()
                process.kill()
    with suppress(psutil.Error):
        for child in psutil.Process(head.pid).children(recursive=True):
            child.kill()
    head.kill()
    head.wait()
