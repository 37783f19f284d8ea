"""Nodes that die in the middle of training and scoring, on a local cluster of several nodes."""

import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.cluster

TRAINING = """
import json, os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from sdmad.fitting.config import TrainConfig
from sdmad.fits import list_fits
from sdmad.fitting.run import train_seeds
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig

# Nodes are added from a thread, where no signal handler can be set.
ray._private.utils.set_sigterm_handler = lambda handler: None
archive, output, graceful = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in range(2)]
os.environ["RAY_ADDRESS"] = cluster.address
config = TrainConfig(
    archive=archive, labels=f"{archive}/labels.csv", catalog="phantoms", shots=[2], seeds="0:8",
    learner=LearnerConfig(steps=150, augment=AugmentConfig(views=2)),
    compute={"workers": 2, "fits_per_batch": 1, "max_failures": 5},
)
report = {}

def kill():
    while len(list_fits(output)) < 2:
        time.sleep(0.05)
    fits = sorted(Path(output).glob("fits/*/*"))
    report["before"] = {p.name: p.stat().st_mtime_ns for p in fits}
    for node in nodes:
        cluster.remove_node(node, allow_graceful=graceful)
        cluster.add_node(num_cpus=1, object_store_memory=200 << 20)
    finished.wait()  # A node dies with the thread that started it.

finished = threading.Event()
killer = threading.Thread(target=kill)
killer.start()
made = train_seeds(config, output)
finished.set()
killer.join()
after = {p.name: p.stat().st_mtime_ns for p in Path(output).glob("fits/*/*")}
report["made"], report["after"] = made, after
print(json.dumps(report))
"""


@pytest.mark.parametrize("graceful", [False, True], ids=["killed", "terminated"])
def test_training_survives_the_loss_of_its_nodes(graceful, archive, tmp_path) -> None:
    """Both workers' nodes go, new ones come; finished fits are kept, the others made."""
    command = [sys.executable, "-c", TRAINING, str(archive), str(tmp_path), str(graceful)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(next(x for x in done.stdout.splitlines() if x.startswith('{"before"')))
    assert 2 <= len(report["before"]) < 8
    assert len(report["after"]) == 8
    assert report["before"].items() <= report["after"].items(), "finished fits are not made again"


def test_scoring_survives_the_loss_of_nodes() -> None:
    """A node dies, or is told to go, at a random moment of four runs: nothing lost or doubled."""
    command = [sys.executable, "benchmarks/soak.py", "--trials", "4", "--kinds", "node,notice"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 lost, 0 doubled" in last
    print(last, file=sys.stderr)
