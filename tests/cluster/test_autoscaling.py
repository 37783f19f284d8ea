"""Nodes come for a scoring run and go after it: Ray's own autoscaler, with nodes on this machine.

The nodes' GPUs are resources by name only; detectors ask for one each and run on the CPU. Two of
them fill a node, so that reading needs nodes of its own.
"""

import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from sdmad import storage
from sdmad.phantoms.task import draw_example, encode_png
from sdmad.scoring.verify import verify_scores
from tests.cluster.local import local_head
from tests.helpers import ROOT, write_tar

pytestmark = pytest.mark.cluster
NODE_TYPES = {
    "decode": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    "detector": {
        "resources": {"CPU": 1, "GPU": 2},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    },
}


def kinds(nodes: list[dict[str, float]]) -> dict[str, int]:
    """Living nodes by kind; a node with neither CPU nor GPU is the head."""
    names = ["detector" if n.get("GPU") else "decode" if n.get("CPU") else "head" for n in nodes]
    return dict(Counter(names))


def test_a_run_on_a_bare_head_brings_nodes_and_lets_them_go(s3, training_run, tmp_path) -> None:
    base = f"{s3}/autoscaled"
    content = [encode_png(draw_example(k, "test").image) for k in range(40)]
    for k in range(60):
        members = {f"{k}-{j}.png": content[j % 40] for j in range(120)}
        shard = write_tar(tmp_path / "s.tar", members).read_bytes()
        storage.write_bytes(f"{base}/archive/{k:02d}.tar", shard)
    command = [sys.executable, "jobs/score_archive.py", "--archive", f"{base}/archive"]
    command += ["--detector", str(training_run), "--output", f"{base}/scores"]
    command += ["--detectors", "2:4", "--detector-gpus", "1", "--batch-size", "16"]
    history: list[tuple[float, dict[str, int]]] = []
    with (
        local_head(tmp_path, cpus=0, autoscaling=NODE_TYPES) as head,
        head.node_watch() as nodes,
    ):
        begin = time.monotonic()

        def look() -> dict[str, int]:
            now = kinds(nodes())
            if not history or history[-1][1] != now:
                history.append((round(time.monotonic() - begin, 1), now))
            return now

        while look() != {"head": 1}:
            assert time.monotonic() - begin < 30
            time.sleep(0.2)
        environment = head.environment | {"RAY_ADDRESS": head.address}
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while driver.poll() is None:
            assert time.monotonic() - begin < 240, history
            look()
            time.sleep(0.5)
        shown = driver.stdout.read().decode() if driver.stdout else ""
        assert driver.returncode == 0, shown
        finished = round(time.monotonic() - begin, 1)
        while look() != {"head": 1}:
            assert time.monotonic() - begin < 300, history
            time.sleep(0.5)
    print(json.dumps({"finished": finished, "nodes": history}), file=sys.stderr)
    counts = [now for _, now in history]
    assert max(c.get("detector", 0) for c in counts) in (1, 2)
    assert max(c.get("decode", 0) for c in counts) >= 1
    assert counts[-1] == {"head": 1}
    verdict = verify_scores(f"{base}/archive", f"{base}/scores")
    assert verdict.passed
    assert verdict.scored == 7200
