"""Kill processes and nodes at random moments of scoring runs, and verify that no image is lost.

    python benchmarks/soak.py --trials 50

A local Ray cluster with a head without CPUs and two nodes serves all trials. Each trial scores an
archive of phantoms and odd shards (links, several compressed streams, Parquet of other types,
files of several frames, odd names) from S3 to a new output and kills one of: the driver (also
during start-up and planning), the driver between writing the failures and the scores of a unit, a
reader, a detector actor, a node without notice, a node with notice (SIGTERM). If the driver has
died or failed, the same command runs again and must skip finished units. Then the scores are
verified. Prints a line for each trial and a summary; the exit code is 0 only if no image is lost or
doubled.
"""

import gzip
import io
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import typer
from PIL import Image
from ray.cluster_utils import Cluster

from sdmad import storage
from sdmad.demo.local_s3 import local_s3
from sdmad.fitting.config import TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig
from sdmad.phantoms.task import draw_example, encode_png, write_archive
from sdmad.scoring.verify import verify_scores

ROOT = Path(__file__).parents[1]
SHARDS, IMAGES, LOOSE = 40, 30, 50
UNITS = SHARDS + 8  # seven odd shards, and the loose images
ARCHIVE = "s3://soak/archive"
COMMITTER = "driver between failures and scores"
KINDS = ("driver", COMMITTER, "reader", "detector", "node", "notice")
TITLES = {"reader": "read_and_decode", "detector": "DetectorActor"}
TRIAL_SECONDS = 240
DYING = """
import os, signal
from sdmad import storage
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
    nodes: list = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    reruns: int = 0
    missed: int = 0
    images: int = 0
    peak: int = 0

    def refill(self) -> None:
        """Add nodes of one CPU until there are two."""
        while len(self.nodes) < 2:
            self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=200 << 20))


def fill() -> None:
    """Fill the bucket with shards of phantoms, a damaged one in each, and loose images."""
    content = [encode_png(draw_example(k, "test").image) for k in range(IMAGES)]
    content[7] = content[7][:200]
    for shard in range(SHARDS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for k, image in enumerate(content):
                info = tarfile.TarInfo(f"{shard}-{k}.png")
                info.size = len(image)
                tar.addfile(info, io.BytesIO(image))
        storage.write_bytes(f"{ARCHIVE}/{shard:03d}.tar", buffer.getvalue())
    for k in range(LOOSE):
        storage.write_bytes(f"{ARCHIVE}/loose/{k}.png", content[k % IMAGES])
    for name, odd in odd_objects(content).items():
        storage.write_bytes(f"{ARCHIVE}/{name}", odd)


def odd_objects(images: list[bytes]) -> dict[str, bytes]:
    """Shards and loose files of the kinds that are read in ways of their own, by name."""
    frames = [Image.open(io.BytesIO(content)).convert("RGB") for content in images[:5]]
    several = {form: io.BytesIO() for form in ("gif", "png", "webp", "tiff", "mpo")}
    for form, sink in several.items():
        first, *others = [frame.copy() for frame in frames]
        first.save(sink, form.upper(), save_all=True, append_images=others)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        members = {"a.png": images[0], "cine.gif": several["gif"].getvalue()}
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, "a.png"),
            ("soft.gif", tarfile.SYMTYPE, "cine.gif"),
            ("loop.png", tarfile.SYMTYPE, "loop.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    whole = plain.getvalue()
    half = len(whole) // 2
    odd = {
        "odd/concatenated.tar": whole + whole,
        "odd/streams.tar.gz": gzip.compress(whole[:half]) + gzip.compress(whole[half:]),
        "odd/named wrong.tar": lzma.compress(whole),
        "odd/ha#sh 50%25.tar": whole,
        "odd//empty folder.png": images[0],
    }
    bytes_ = pa.array(images)
    for name, column in {
        "dictionary": bytes_.dictionary_encode(),
        "lists": pa.array([list(content) for content in images], pa.list_(pa.uint8())),
        "structs": pa.array([{"bytes": content} for content in images]),
    }.items():
        sink = io.BytesIO()
        names = pa.array([f"{name} {k}" for k in range(len(images))], pa.large_string())
        pq.write_table(pa.table({"path": names, "image": column}), sink, row_group_size=7)
        odd[f"odd/{name}.parquet"] = sink.getvalue()
    return odd | {f"odd/frames.{form}": sink.getvalue() for form, sink in several.items()}


def parts(output: str) -> dict[str, str]:
    """Name and ETag of the score table of each finished unit."""
    return {storage.name(e.uri): e.etag for e in storage.list_objects(f"{output}/scores")}


def start(soak: Soak, output: str, last_words: int = 0) -> subprocess.Popen:
    """Start the job; with `last_words`, it kills itself before writing that many-th score table."""
    job = ["-c", DYING.format(number=last_words)] if last_words else ["jobs/score_archive.py"]
    command = [sys.executable, *job, "--archive", ARCHIVE]
    command += ["--detector", soak.detector, "--output", output, "--batch-size", "16"]
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
    """Score with one kill, repeat the command until it succeeds, and verify."""
    output = f"s3://soak/scores-{number}"
    begin = time.monotonic()
    last_words = soak.random.randrange(1, SHARDS) if kind == COMMITTER else 0
    driver = start(soak, output, last_words)
    hit = kill(soak, kind, driver, output)
    soak.missed += not hit
    code = driver.wait(TRIAL_SECONDS)
    finished = parts(output)
    while code != 0:
        soak.reruns += 1
        before = parts(output)
        code = start(soak, output).wait(TRIAL_SECONDS)
        record = json.loads(storage.read_bytes(f"{output}/run.json"))
        assert record["units_skipped"] == len(before), "finished units are skipped"
        assert before.items() <= parts(output).items(), "finished units are not written again"
    verdict = verify_scores(ARCHIVE, output)
    soak.images += verdict.images
    gone = len(verdict.lost)
    twice = len(verdict.doubled) + len(verdict.foreign)
    soak.lost, soak.doubled = soak.lost + gone, soak.doubled + twice
    print(
        f"trial {number}: {kind}{'' if hit else ' (too late)'}, {len(finished)} of {UNITS} "
        f"units finished then, {gone} lost, {twice} doubled, {time.monotonic() - begin:.0f} s",
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
    with local_s3("soak"), tempfile.TemporaryDirectory() as folder:
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
        fill()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        soak = Soak(f"{folder}/train", cluster, random.Random(seed))  # noqa: S311 - not for security
        soak.refill()
        threading.Thread(target=watch_memory, args=(soak,), daemon=True).start()
        try:
            for number in range(trials):
                trial(soak, number, turns[number % len(turns)])
        finally:
            cluster.shutdown()
    print(
        f"{trials} trials ({soak.missed} too late to hit), {soak.images} images, {soak.lost} lost, "
        f"{soak.doubled} doubled, {soak.reruns} reruns, largest process {soak.peak >> 20} MiB"
    )
    sys.exit(bool(soak.lost or soak.doubled))


if __name__ == "__main__":
    typer.run(main)
