"""Processes die in the middle of a scoring run: no image is lost or scored twice."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sdmad import storage
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.run import score_archive
from sdmad.scoring.verify import verify_scores
from sdmad.storage import s3 as s3_access
from tests.faulty_s3 import faulty_s3
from tests.helpers import CRASH, FATAL_SIZE, FICKLE, HANG, ROOT, encoded, killers, pages, write_tar
from tests.scoring.test_run import encoded_phantom, finished, record, tables

READER, DETECTOR = "read_and_decode", "DetectorActor"


def workers(kind: str) -> list[psutil.Process]:
    """The worker processes on this machine that now run a stage of the pipeline."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::") and kind in title:
            found.append(process)
    return found


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


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """24 shards of 30 phantoms."""
    folder = tmp_path_factory.mktemp("shards")
    content = encoded_phantom(3)
    for k in range(24):
        write_tar(folder / f"{k:02d}.tar", {f"{k}-{j}.png": content for j in range(30)})
    return folder


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("kind", "times"), [(READER, 3), (DETECTOR, 2)])
def test_killed_workers_lose_no_images(kind, times, shards, training_run, tmp_path) -> None:
    output = str(tmp_path / "scores")
    with killing(kind, times) as killed:
        score_archive(str(shards), str(training_run), output, PipelineConfig(batch_size=8))
    assert len(killed) == times
    verdict = verify_scores(str(shards), output)
    assert verdict.passed
    assert (verdict.scored, verdict.failed) == (720, 0)


@pytest.mark.usefixtures("joined")
def test_a_unit_stays_unfinished_when_the_driver_dies_between_failures_and_scores(
    shards, training_run, tmp_path
) -> None:
    """SIGKILL just before the fourth file of scores is written; its failures are written."""
    output = tmp_path / "scores"
    dying = (
        "import os, signal, sys\n"
        "from sdmad import storage\n"
        "write, written = storage.write_bytes, []\n"
        "def dying(uri, content):\n"
        "    if '/scores/part-' in uri:\n"
        "        written.append(uri)\n"
        "        if len(written) == 4:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(uri, content)\n"
        "storage.write_bytes = dying\n"
        "from sdmad.commands.score import score\n"
        "from sdmad.runtime.cli import run_command\n"
        "run_command(score)\n"
    )
    arguments = ["--archive", shards, "--detector", training_run, "--output", output]
    arguments += ["--batch-size", "8"]
    command = [sys.executable, "-c", dying, *map(str, arguments)]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=200)
    assert died.returncode == -signal.SIGKILL
    assert len(finished(output)) == 3
    assert len(list((output / "failures").glob("part-*"))) == 4
    command = [sys.executable, "jobs/score_archive.py", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)
    assert record(str(output))["units_skipped"] == 3
    verdict = verify_scores(str(shards), str(output))
    assert verdict.passed
    assert verdict.scored == 720


SMALL_BLOCKS = """
import ray.data
ray.data.DataContext.get_current().target_max_block_size = 1000
from sdmad.commands.score import score
from sdmad.runtime.cli import run_command
run_command(score)
"""


def test_files_that_kill_or_hang_decoders_become_failures_and_the_others_are_scored(
    training_run, tmp_path
) -> None:
    """Blocks are so small that Ray takes the first frames of a file before its reader dies.

    In 3.tar the attempt in quarantine gives the same frames; in 4.tar it gives one row for the
    whole file, so that the rows of the two attempts do not fit together.
    """
    size = (40, 40)
    images = {f"{k}.png": encoded_phantom(k) for k in range(6)}
    two = {f"{k}.png": encoded_phantom(k) for k in range(2)}
    stack = pages(size, size, FATAL_SIZE, size, size)
    fickle = pages(size, size, FATAL_SIZE, size, size, mark=FICKLE)
    write_tar(tmp_path / "a" / "0.tar", images | {"crash.png": CRASH, "last.png": encoded(3)})
    write_tar(tmp_path / "a" / "1.tar", {"hang.png": HANG} | images)
    write_tar(tmp_path / "a" / "2.tar", images)
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
    assert "readers of 1 work units died" in done.stderr
    failures = tables(str(tmp_path / "scores"), "failures").to_pylist()
    crashed = "quarantined: the decoder crashed (SIGSEGV)"
    assert {(f["archive"], f["member"]): f["reason"] for f in failures} == {
        ("0.tar", "crash.png"): crashed,
        ("1.tar", "hang.png"): "quarantined: the decoder did not return within 4 seconds",
        ("3.tar", "stack.tif#frame=3"): crashed,
        ("4.tar", "stack.tif"): crashed,
    }
    names = tables(str(tmp_path / "scores"), "scores")
    scored = sorted(zip(names["archive"].to_pylist(), names["member"].to_pylist(), strict=True))
    assert [name for name in scored if name[0] in ("3.tar", "4.tar")] == [
        *(("3.tar", name) for name in two),
        *(("3.tar", f"stack.tif#frame={k}") for k in (1, 2, 4, 5)),
        *(("4.tar", name) for name in two),
    ]
    verdict = verify_scores(str(tmp_path / "a"), str(tmp_path / "scores"))
    assert verdict.passed
    assert verdict.scored == 19 + 6 + 2


@pytest.mark.usefixtures("joined")
def test_a_run_completes_when_storage_fails_a_fifth_of_requests(s3, training_run, tmp_path) -> None:
    base = f"{s3}/chaos-{tmp_path.name}"
    for k in range(6):
        images = {f"{k}-{j}.png": encoded_phantom(j) for j in range(10)}
        shard = write_tar(tmp_path / "s.tar", images).read_bytes()
        storage.write_bytes(f"{base}/archive/{k}.tar", shard)
        storage.write_bytes(f"{base}/archive/loose/{k}.png", encoded_phantom(k))
    command = [sys.executable, "jobs/score_archive.py", "--archive", f"{base}/archive"]
    command += ["--detector", str(training_run), "--output", f"{base}/scores"]
    with faulty_s3(os.environ["AWS_ENDPOINT_URL"], share=0.2, seed=2) as front:
        environment = os.environ | {"AWS_ENDPOINT_URL": front.url}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
        assert sum(front.faults.values()) >= 5, front.faults
    verdict = verify_scores(f"{base}/archive", f"{base}/scores")
    assert verdict.passed
    assert (verdict.scored, verdict.failed) == (66, 0)


@pytest.mark.usefixtures("joined")
def test_two_runs_with_the_same_output_agree(s3, training_run, tmp_path) -> None:
    base = f"{s3}/twice-{tmp_path.name}"
    for k in range(5):
        images = {f"{k}-{j}.png": encoded_phantom(j) for j in range(8)}
        shard = write_tar(tmp_path / "s.tar", images).read_bytes()
        storage.write_bytes(f"{base}/archive/{k}.tar", shard)
        storage.write_bytes(f"{base}/archive/{k}.png", encoded_phantom(k))
    command = [sys.executable, "jobs/score_archive.py", "--archive", f"{base}/archive"]
    command += ["--detector", str(training_run), "--output", f"{base}/scores"]
    quiet = subprocess.DEVNULL
    runs = [subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet) for _ in range(2)]
    assert [run.wait(200) for run in runs] == [0, 0]
    verdict = verify_scores(f"{base}/archive", f"{base}/scores")
    assert verdict.passed
    assert (verdict.scored, verdict.failed) == (45, 0)


@pytest.mark.usefixtures("ray_cluster")
def test_each_frame_of_a_file_is_an_image(training_run, tmp_path) -> None:
    """In a shard and as a loose object, named as in the label table; one frame is damaged."""
    import numpy as np

    from sdmad.archive.preprocess import ImageSpec
    from sdmad.archive.selected import decode_members
    from tests.archive.test_dicom import dataset, saved

    stack = np.random.default_rng(0).integers(0, 4000, (3, 64, 64), np.uint16)
    scan = saved(dataset(stack))
    archive = tmp_path / "a"
    write_tar(archive / "s.tar", {"scan.dcm": scan, "x.png": encoded_phantom(1)})
    (archive / "loose").mkdir()
    (archive / "loose" / "IM0001").write_bytes(scan)
    (archive / "loose" / "report.dcm").write_bytes(saved(dataset(stack, NumberOfFrames=9)))
    output = str(tmp_path / "scores")
    score_archive(str(archive), str(training_run), output, PipelineConfig())
    rows = {(r["archive"], r["member"]): r["uri"] for r in tables(output, "scores").to_pylist()}
    numbers = (1, 2, 3)
    assert set(rows) == {
        ("s.tar", "x.png"),
        *(("s.tar", f"scan.dcm#frame={k}") for k in numbers),
        *(("", f"loose/IM0001#frame={k}") for k in numbers),
    }
    assert rows["s.tar", "scan.dcm#frame=2"] == f"{archive}/s.tar#scan.dcm&frame=2"
    assert rows["", "loose/IM0001#frame=2"] == f"{archive}/loose/IM0001#frame=2"
    (failure,) = tables(output, "failures").to_pylist()
    assert failure["reason"] == "DICOM of 9 frames with pixel data for 3"
    assert verify_scores(str(archive), output).passed
    spec = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3)
    pixels, problems = decode_members(str(archive), list(rows), spec)
    assert not problems
    assert len(pixels) == 7
    for uri in (Path(output) / "scores").glob("part-*"):
        assert b"SECRET" not in uri.read_bytes()
    part = next(iter((Path(output) / "failures").glob("part-*")))
    assert b"SECRET" not in part.read_bytes()


def test_verification_finds_a_lost_and_a_doubled_frame(tmp_path) -> None:
    import numpy as np
    import pyarrow as pa

    from sdmad.scoring import tables as written
    from tests.archive.test_dicom import dataset, saved

    (tmp_path / "a").mkdir()
    scan = saved(dataset(np.zeros((3, 8, 8), np.uint16)))
    (tmp_path / "a" / "x.dcm").write_bytes(scan)
    frames = [1, 2, 2]
    rows = pa.table({"archive": [""] * 3, "member": [f"x.dcm#frame={k}" for k in frames]})
    written.commit_unit(str(tmp_path), "0" * 16, rows, written.empty_failures(), {})
    verdict = verify_scores(str(tmp_path / "a"), str(tmp_path))
    assert verdict.lost == [("", "x.dcm#frame=3")]
    assert verdict.doubled == [("", "x.dcm#frame=2")]


@pytest.mark.usefixtures("ray_cluster")
def test_images_removed_from_the_archive_after_scoring_pass(training_run, tmp_path) -> None:
    archive, output = tmp_path / "a", str(tmp_path / "scores")
    archive.mkdir()
    for k in range(3):
        (archive / f"{k}.png").write_bytes(encoded_phantom(k))
    score_archive(str(archive), str(training_run), output, PipelineConfig())
    (archive / "1.png").unlink()
    verdict = verify_scores(str(archive), output)
    assert verdict.passed
    assert verdict.gone == [("", "1.png")]


@pytest.mark.usefixtures("joined")
def test_credentials_appear_in_no_file_and_no_output(s3, training_run, tmp_path) -> None:
    """Neither in tables, plan, run.json nor messages, of successful and of refused runs."""
    secret = "wJalrSECRETKEYdonotshow"  # noqa: S105 - a made-up key, searched for below
    base = f"{s3}/secrets-{tmp_path.name}"
    storage.write_bytes(f"{base}/a/1.png", encoded_phantom(1))
    environment = os.environ | {"AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": secret}
    command = [sys.executable, "jobs/score_archive.py", "--detector", str(training_run)]
    shown = ""
    for archive in (f"{base}/a", "s3://no-such-bucket/x"):
        arguments = ["--archive", archive, "--output", f"{base}/scores"]
        done = subprocess.run(
            command + arguments, cwd=ROOT, env=environment, capture_output=True, timeout=200
        )
        shown += (done.stdout + done.stderr).decode()
    assert "SECRETKEY" not in shown
    written = list(storage.list_objects(f"{base}/scores"))
    assert len(written) == 4
    for entry in written:
        assert b"SECRETKEY" not in storage.read_bytes(entry.uri)


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
