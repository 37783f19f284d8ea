"""Processes die in the middle of a scoring run: no image is lost or scored twice."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.commands.score import score
from sdmad.scoring import tables as written
from sdmad.scoring.images import score_archive
from sdmad.scoring.plan import IDENTITY, make_plan, plan_uri
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.verify import verify_scores
from sdmad.storage import s3 as s3_access
from tests.archive.test_dicom import SECRET, dataset, saved
from tests.faulty_s3 import faulty_s3
from tests.helpers import (
    FATAL_SIZE,
    FICKLE,
    ROOT,
    S3_SECRET,
    killers,
    pages,
    run_command,
    workers,
    write_tar,
)
from tests.scoring.helpers import encoded_phantom, score_command, tables

READER, DETECTOR = "read_and_decode", "DetectorActor"


@contextmanager
def killing(kind: str, times: int) -> Iterator[list[int]]:
    """SIGKILL `times` workers of a stage as they appear, one second apart."""
    killed: list[int] = []
    stop = threading.Event()

    def hunt() -> None:
        while len(killed) < times and not stop.wait(0.01):
            for process in workers(kind)[:1]:
                if process.pid not in killed:
                    process.kill()
                    killed.append(process.pid)
                    stop.wait(1.0)

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("ray_cluster")
def test_killed_workers_lose_no_images(training_run, tmp_path) -> None:
    """Two readers and a detector in one run; `make soak` kills everything, dozens of times."""
    content = encoded_phantom(3)
    for k in range(16):
        write_tar(tmp_path / "a" / f"{k}.tar", {f"{k}-{j}.png": content for j in range(20)})
    output = str(tmp_path / "scores")
    with killing(READER, 2) as readers, killing(DETECTOR, 1) as detectors:
        score_archive(str(tmp_path / "a"), str(training_run), output, PipelineConfig(batch_size=8))
    assert (len(readers), len(detectors)) == (2, 1)
    verdict = verify_scores(str(tmp_path / "a"), output)
    assert verdict.passed
    assert (verdict.scored, verdict.failed) == (320, 0)


def test_files_that_kill_or_hang_decoders_become_failures_and_the_others_are_scored(mixed) -> None:
    quarantined = [
        row
        for row in tables(mixed.output, "failures").to_pylist()
        if row["archive"] in ("crash.tar", "hang.tar")
    ]
    assert {(row["archive"], row["member"]): row["reason"] for row in quarantined} == {
        ("crash.tar", "crash.png"): "quarantined: the decoder crashed (SIGSEGV)",
        ("hang.tar", "hang.png"): "quarantined: the decoder did not return within 3 seconds",
    }
    shards = tables(mixed.output, "scores")["archive"].to_pylist()
    assert (shards.count("crash.tar"), shards.count("hang.tar")) == (7, 6)


SMALL_BLOCKS = """
import ray.data
ray.data.DataContext.get_current().target_max_block_size = 1000
from sdmad.commands.score import score
from sdmad.runtime.cli import run_command
run_command(score)
"""


def test_rows_of_different_attempts_never_mix(training_run, tmp_path) -> None:
    """Blocks are so small that Ray takes the first frames of a file before its reader dies.

    In 3.tar the attempt in quarantine gives the same frames; in 4.tar it gives one row for the
    whole file, so that the rows of the two attempts do not fit together.
    """
    size = (40, 40)
    two = {f"{k}.png": encoded_phantom(k) for k in range(2)}
    stack = pages(size, size, FATAL_SIZE, size, size)
    fickle = pages(size, size, FATAL_SIZE, size, size, mark=FICKLE)
    write_tar(tmp_path / "a" / "3.tar", {"stack.tif": stack} | two)
    write_tar(tmp_path / "a" / "4.tar", {"stack.tif": fickle} | two)
    command = [sys.executable, "-c", SMALL_BLOCKS, "--archive", str(tmp_path / "a")]
    command += ["--detector", str(training_run), "--output", str(tmp_path / "scores")]
    command += ["--decode-seconds", "4", "--batch-size", "1"]
    environment = os.environ | {"PYTHONPATH": killers(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stderr
    assert "1 work unit is read again because its reader died" in done.stderr
    failures = tables(str(tmp_path / "scores"), "failures").to_pylist()
    crashed = "quarantined: the decoder crashed (SIGSEGV)"
    assert {(f["archive"], f["member"]): f["reason"] for f in failures} == {
        ("3.tar", "stack.tif#frame=3"): crashed,
        ("4.tar", "stack.tif"): crashed,
    }
    names = tables(str(tmp_path / "scores"), "scores")
    scored = sorted(zip(names["archive"].to_pylist(), names["member"].to_pylist(), strict=True))
    assert scored == [
        *(("3.tar", name) for name in two),
        *(("3.tar", f"stack.tif#frame={k}") for k in (1, 2, 4, 5)),
        *(("4.tar", name) for name in two),
    ]
    verdict = verify_scores(str(tmp_path / "a"), str(tmp_path / "scores"))
    assert verdict.passed


@pytest.mark.cluster
@pytest.mark.usefixtures("joined")
def test_two_runs_agree_on_one_output_when_storage_fails_a_fifth_of_requests_of_one(
    s3, training_run, tmp_path
) -> None:
    """The one with faults is a process of its own, the other one begins after it."""
    base = f"{s3}/chaos-{tmp_path.name}"
    archive, output = f"{base}/archive", f"{base}/scores"
    for k in range(5):
        images = {f"{k}-{j}.png": encoded_phantom(j) for j in range(4)}
        shard = write_tar(tmp_path / "s.tar", images).read_bytes()
        storage.write_bytes(f"{archive}/{k}.tar", shard)
        storage.write_bytes(f"{archive}/{k}.png", encoded_phantom(k))
    command = score_command(archive, training_run, output)
    with faulty_s3(os.environ["AWS_ENDPOINT_URL"], share=0.2, seed=2) as front:
        other = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"AWS_ENDPOINT_URL": front.url},
            stdout=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 200
        while not storage.exists(plan_uri(output)):
            assert other.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tally = score_archive(archive, str(training_run), output, PipelineConfig())
        shown, _ = other.communicate(timeout=200)
        assert other.returncode == 0
        assert sum(front.faults.values()) >= 3, front.faults
    assert shown.startswith("scored 25 images "), "all of them by itself"
    assert tally.failures == 0
    verdict = verify_scores(archive, output)
    assert verdict.passed
    assert (verdict.scored, verdict.failed) == (25, 0)


def test_each_frame_of_a_file_is_an_image(mixed) -> None:
    """In a shard and as a loose object, named as in the label table; one frame is damaged."""
    rows = {
        (r["archive"], r["member"]): r["uri"]
        for r in tables(mixed.output, "scores").to_pylist()
        if "#frame=" in r["member"]
    }
    numbers = (1, 2, 3)
    assert set(rows) == {
        *(("a/scan.tar", f"scan.dcm#frame={k}") for k in numbers),
        *(("", f"loose/IM0001#frame={k}") for k in numbers),
    }
    shard, loose = f"{mixed.archive}/a/scan.tar", f"{mixed.archive}/loose/IM0001"
    assert rows["a/scan.tar", "scan.dcm#frame=2"] == f"{shard}#scan.dcm&frame=2"
    assert rows["", "loose/IM0001#frame=2"] == f"{loose}#frame=2"
    failures = {r["member"]: r["reason"] for r in tables(mixed.output, "failures").to_pylist()}
    assert failures["loose/report.dcm"] == "DICOM of 9 frames with pixel data for 3"
    spec = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3)
    pixels, problems = decode_members(mixed.archive, list(rows), spec)
    assert not problems
    assert len(pixels) == 6


def test_verification_finds_a_lost_and_a_doubled_frame(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    scan = saved(dataset(np.zeros((3, 8, 8), np.uint16)))
    (tmp_path / "a" / "x.dcm").write_bytes(scan)
    frames = [1, 2, 2]
    rows = pa.table({"archive": [""] * 3, "member": [f"x.dcm#frame={k}" for k in frames]})
    written.commit_unit(str(tmp_path), "0" * 16, rows, written.empty_failures(), {})
    verdict = verify_scores(str(tmp_path / "a"), str(tmp_path))
    assert verdict.lost == [("", "x.dcm#frame=3")]
    assert verdict.doubled == [("", "x.dcm#frame=2")]


def test_images_removed_from_the_archive_after_scoring_pass(tmp_path) -> None:
    archive, output = tmp_path / "a", str(tmp_path / "scores")
    archive.mkdir()
    for k in range(3):
        (archive / f"{k}.png").write_bytes(encoded_phantom(k))
    plan = make_plan(str(archive), output, dict.fromkeys(IDENTITY, "") | {"archive": str(archive)})
    rows = pa.table({"archive": [""] * 3, "member": [f"{k}.png" for k in range(3)]})
    (unit,) = plan.units
    written.commit_unit(output, unit.id, rows, written.empty_failures(), {})
    (archive / "1.png").unlink()
    verdict = verify_scores(str(archive), output)
    assert verdict.passed
    assert verdict.gone == {"1.png": 1}


def test_secrets_appear_in_no_file_and_no_output(mixed, s3, training_run, tmp_path) -> None:
    """Neither credentials nor names of patients, of successful and of refused runs."""
    result = run_command(
        *(score, "--archive", "s3://no-such-bucket/x", "--detector", training_run),
        *("--output", f"{s3}/refused"),
    )
    assert result.returncode == 2
    shown = mixed.shown + result.stdout + result.stderr
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    files = {str(path): path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    files |= {e.uri: storage.read_bytes(e.uri) for e in storage.list_objects(mixed.output)}
    assert len(files) > 2 + 2 * 7
    for secret in (S3_SECRET, SECRET):
        assert secret not in shown
        assert not [name for name, content in files.items() if secret.encode() in content]


def test_reads_of_a_process_share_one_client(s3) -> None:
    """A request that is throttled then slows down all others of the process."""
    clients = []
    threads = [threading.Thread(target=lambda: clients.append(s3_access.client())) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, clients))) == 1
    assert clients[0].meta.config.retries["mode"] == "adaptive"
