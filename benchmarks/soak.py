"""Kill processes and nodes at random moments of scoring runs, and check that no image is lost.

    python benchmarks/soak.py --trials 50

A local Ray cluster with a head without CPUs and two nodes serves all trials. Each trial scores an
archive from S3 to a new output: phantoms, links, several compressed streams, Parquet of other
types, files of several frames, files that kill the process that decodes them at one of their
frames, odd names (`odd_archive.py`). The archive is the prefix, a CSV manifest or a Parquet
manifest, in turn. Each trial kills one of: the driver (also during start-up and planning), the
driver between writing the failures and the scores of a unit, a reader, a detector actor, a node
without notice, a node with notice (SIGTERM). If the driver has died or failed, the same command
runs again and must skip finished units.

Then the rows of the tables, read by boto3 and pyarrow alone, are compared with those that the
archive was made with, and `sdmad verify` must agree. Prints a line for each trial and a summary;
the exit code is 0 only if no image is lost, doubled or in the wrong table.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import boto3
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import typer
from odd_archive import (
    SHARDS,
    Made,
    Name,
    csv_manifest,
    install_killer,
    make_archive,
    parquet_manifest,
)
from ray.cluster_utils import Cluster

from sdmad import storage
from sdmad.demo.local_s3 import local_s3
from sdmad.fitting.config import TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig
from sdmad.phantoms.task import write_archive
from sdmad.scoring.verify import verify_scores

ROOT = Path(__file__).parents[1]
BUCKET = "soak"
ARCHIVE, MANIFEST = f"s3://{BUCKET}/archive", f"s3://{BUCKET}/manifest"
COMMITTER = "driver between failures and scores"
KINDS = ("driver", COMMITTER, "reader", "detector", "node", "notice")
TITLES = {"reader": "read_and_decode", "detector": "DetectorActor"}
TRIAL_SECONDS = 600
SHOWN = 5
# Bytes of a block of Ray Data: its default, and less than 16 images.
LARGE_BLOCK, SMALL_BLOCK = 128 << 20, 1 << 20
JOB = """
# score_archive
import os, signal
import ray.data
from sdmad import storage
ray.data.DataContext.get_current().target_max_block_size = {block}
write, written = storage.write_bytes, []
def dying(uri, content):
    if "/scores/part-" in uri:
        written.append(uri)
        if len(written) == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
    write(uri, content)
storage.write_bytes = dying
from sdmad.commands.score import score
from sdmad.runtime.cli import run_command
run_command(score)
"""


@dataclass
class Soak:
    """What all trials share, and the totals over them."""

    detector: str
    cluster: Cluster
    random: random.Random
    made: Made
    archives: dict[str, str]
    nodes: list = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    misjudged: int = 0
    refused: int = 0
    reruns: int = 0
    missed: int = 0
    images: int = 0
    peak: int = 0

    def refill(self) -> None:
        """Add nodes of one CPU until there are two."""
        while len(self.nodes) < 2:
            self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=200 << 20))


def fill(made: Made) -> dict[str, str]:
    """Fill the bucket; the three forms of the archive and what is in front of its names there."""
    for key, content in made.objects.items():
        storage.write_bytes(f"{ARCHIVE}/{key}", content)
    uris = [f"{ARCHIVE}/{key}" for key in made.objects]
    sizes = [len(content) for content in made.objects.values()]
    etags = [storage.describe(uri).etag for uri in uris]
    storage.write_bytes(f"{MANIFEST}.csv", csv_manifest(uris, sizes, etags))
    storage.write_bytes(f"{MANIFEST}.parquet", parquet_manifest(uris, sizes, etags))
    return {ARCHIVE: "", f"{MANIFEST}.csv": "archive/", f"{MANIFEST}.parquet": "archive/"}


def check_refusals(soak: Soak) -> None:
    """Sizes that are no numbers of bytes end a run with one sentence that names the row."""
    for k, size in enumerate(("10,240", "10 KB")):
        manifest, output = f"s3://{BUCKET}/refused-{k}.csv", f"s3://{BUCKET}/refused-{k}"
        lines = f'uri,size,etag\n{ARCHIVE}/000.tar,,\n{ARCHIVE}/loose/0.png,"{size}",x\n'
        storage.write_bytes(manifest, lines.encode())
        refused = subprocess.run(
            job(soak, manifest, output), cwd=ROOT, capture_output=True, text=True
        )
        said = refused.stderr.strip().splitlines()
        assert refused.returncode == 2, said
        assert len(said) == 1, said
        assert "row 3" in said[0], said
        assert not list(storage.list_objects(output)), "nothing is written"


def rows(output: str, kind: str) -> Counter[Name]:
    """How many rows each (archive, member) has, read by boto3 and pyarrow alone."""
    client, found = boto3.client("s3"), Counter[Name]()
    prefix = f"{output.removeprefix(f's3://{BUCKET}/')}/{kind}/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    for entry in (entry for page in pages for entry in page.get("Contents", [])):
        content = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        table = pq.read_table(pa.BufferReader(content), columns=["archive", "member"])
        found.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return found


def compare(soak: Soak, output: str, before: str) -> tuple[int, int]:
    """Add what is lost, doubled and misjudged to the totals; `before` is in front of names."""

    def placed(name: Name) -> Name:
        archive, member = name
        return (before + archive, member) if archive else ("", before + member)

    wanted = Counter({placed(name): number for name, number in soak.made.images.items()})
    failures = {placed(name) for name in soak.made.failures}
    scored, failed = rows(output, "scores"), rows(output, "failures")
    lost, surplus = wanted - (scored + failed), (scored + failed) - wanted
    misjudged = (failed.keys() ^ failures) - lost.keys() - surplus.keys()
    for what, names in (("lost", lost), ("doubled", surplus), ("misjudged", misjudged)):
        for name in list(names)[:SHOWN]:
            print(f"  {what}: {name}", flush=True)
    soak.images += wanted.total()
    soak.lost, soak.doubled = soak.lost + lost.total(), soak.doubled + surplus.total()
    soak.misjudged += len(misjudged)
    return lost.total(), surplus.total()


def parts(output: str) -> dict[str, str]:
    """Name and ETag of the score table of each finished unit."""
    return {storage.name(e.uri): e.etag for e in storage.list_objects(f"{output}/scores")}


def job(
    soak: Soak, archive: str, output: str, last_words: int = 0, block: int = LARGE_BLOCK
) -> list[str]:
    """The command; with `last_words`, it kills itself before writing that many-th score table.

    `block` is Ray's block size: rows of small ones arrive before their reader dies.
    """
    script = JOB.format(number=last_words, block=block)
    command = [sys.executable, "-c", script, "--archive", archive, "--detector", soak.detector]
    return [*command, "--output", output, "--batch-size", "16"]


def start(soak: Soak, command: list[str]) -> subprocess.Popen:
    environment = os.environ | {"RAY_ADDRESS": soak.cluster.address}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen) -> bool:
    """Wait for `condition`; False if the driver ends before."""
    while driver.poll() is None:
        if condition():
            return True
        time.sleep(0.01)
    return False


def kill(soak: Soak, kind: str, driver: subprocess.Popen, output: str) -> bool:
    """Kill a process or node of `kind` at a random moment; False if the run had ended before."""
    if kind == "driver":
        if soak.random.random() < 0.5:
            wait_for(lambda: bool(parts(output)), driver)
            time.sleep(soak.random.uniform(0, 1.5))
        else:
            time.sleep(soak.random.uniform(2, 10))
        driver.send_signal(signal.SIGKILL)
        return True
    if kind == COMMITTER:
        return driver.wait(TRIAL_SECONDS) == -signal.SIGKILL
    if not wait_for(lambda: bool(workers("reader") + workers("detector")), driver):
        return False
    time.sleep(soak.random.uniform(0, 4))
    if kind in ("node", "notice"):
        node = soak.nodes.pop(soak.random.randrange(len(soak.nodes)))
        soak.cluster.remove_node(node, allow_graceful=kind == "notice")
        time.sleep(1)
        soak.refill()
        return driver.poll() is None
    if not wait_for(lambda: bool(workers(kind)), driver):
        return False
    for process in workers(kind)[:1]:
        process.kill()
    return True


def workers(kind: str) -> list[psutil.Process]:
    """Worker processes that run this stage now."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::") and TITLES[kind] in title:
            found.append(process)
    return found


def watch_memory(soak: Soak) -> None:
    """Record the largest memory of a worker or driver, twice a second."""
    while True:
        for process in psutil.process_iter(["cmdline", "memory_info"]):
            title = " ".join(process.info["cmdline"] or [])
            if (title.startswith("ray::") or "score_archive" in title) and process.info[
                "memory_info"
            ]:
                soak.peak = max(soak.peak, process.info["memory_info"].rss)
        time.sleep(0.5)


def trial(soak: Soak, number: int, kind: str) -> None:
    """Score with one kill, repeat the command until it succeeds, and compare."""
    output = f"s3://{BUCKET}/scores-{number}"
    turn = number + number // len(KINDS)
    archive, before = list(soak.archives.items())[turn % len(soak.archives)]
    block = (LARGE_BLOCK, SMALL_BLOCK)[turn % 2]
    begin = time.monotonic()
    last_words = soak.random.randrange(1, SHARDS) if kind == COMMITTER else 0
    driver = start(soak, job(soak, archive, output, last_words, block))
    hit = kill(soak, kind, driver, output)
    soak.missed += not hit
    code = driver.wait(TRIAL_SECONDS)
    finished = parts(output)
    while code != 0:
        soak.reruns += 1
        earlier = parts(output)
        code = start(soak, job(soak, archive, output, 0, block)).wait(TRIAL_SECONDS)
        record = json.loads(storage.read_bytes(f"{output}/run.json"))
        assert record["units_skipped"] == len(earlier), "finished units are skipped"
        assert earlier.items() <= parts(output).items(), "finished units are not written again"
    gone, twice = compare(soak, output, before)
    agreed = verify_scores(archive, output).passed
    soak.refused += not agreed
    print(
        f"trial {number}: {kind}{'' if hit else ' (too late)'}, {storage.name(archive)}, "
        f"{len(finished)} of {soak.made.units} units finished then, {gone} lost, {twice} doubled, "
        f"verify {'agrees' if agreed else 'DISAGREES'}, {time.monotonic() - begin:.0f} s",
        flush=True,
    )


def main(
    trials: Annotated[int, typer.Option(help="Trials, one kill each.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the random moments.")] = 0,
    kinds: Annotated[str, typer.Option(help="What to kill, in turn, like node,notice.")] = "",
) -> None:
    """Kill processes and nodes of scoring runs at random moments, and verify the scores."""
    turns = kinds.split(",") if kinds else list(KINDS)
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    with local_s3(BUCKET), tempfile.TemporaryDirectory() as folder:
        labels = write_archive(f"{folder}/few", pool=200, test=10)
        quick = LearnerConfig(steps=5, augment=AugmentConfig(views=1))
        train = TrainConfig(
            archive=f"{folder}/few",
            labels=labels,
            catalog="phantoms",
            learner=quick,
            shots=[1],
            seeds="0:2",
        )
        train_seeds(train, f"{folder}/train")
        ray.shutdown()
        made = make_archive()
        archives = fill(made)
        os.environ["PYTHONPATH"] = os.pathsep.join([install_killer(Path(folder)), str(ROOT)])
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        chance = random.Random(seed)  # noqa: S311 - not for security
        soak = Soak(f"{folder}/train", cluster, chance, made, archives)
        soak.refill()
        check_refusals(soak)
        threading.Thread(target=watch_memory, args=(soak,), daemon=True).start()
        try:
            for number in range(trials):
                trial(soak, number, turns[number % len(turns)])
        finally:
            cluster.shutdown()
    print(
        f"{trials} trials ({soak.missed} too late to hit), {soak.images} images, {soak.lost} lost, "
        f"{soak.doubled} doubled, {soak.misjudged} misjudged, {soak.refused} refused by verify, "
        f"{soak.reruns} reruns, largest process {soak.peak >> 20} MiB"
    )
    sys.exit(bool(soak.lost or soak.doubled or soak.misjudged or soak.refused))


if __name__ == "__main__":
    typer.run(main)
