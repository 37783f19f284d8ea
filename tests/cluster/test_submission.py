"""`ray job submit` against a real head with token authentication."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from pathlib import Path

import pytest
import yaml

from sdmad import storage
from sdmad.fits import list_fits
from sdmad.phantoms.task import draw_example, encode_png
from sdmad.scoring.verify import verify_scores
from tests.cluster.local import BIN, Head, end_marked, local_head
from tests.docs.pages import block
from tests.helpers import ROOT, write_tar

pytestmark = pytest.mark.cluster
LARGEST_PACKAGE = 25_000_000
# Where a head listens that is started without further options.
DEFAULT_PORTS = (6379, 8265, 10001, 52365)


@pytest.fixture(scope="module")
def head(s3, tmp_path_factory) -> Head:
    with local_head(tmp_path_factory.mktemp("head"), cpus=2) as head:
        yield head


def submit(head: Head, job: str, *arguments: object, wait: bool = True) -> tuple[str, str]:
    """Submit from the root of the repository; (job id, output)."""
    command = ["ray", "job", "submit", "--working-dir", str(ROOT)]
    command += ["--runtime-env-json", json.dumps({"env_vars": {"AWS_REGION": "us-east-1"}})]
    command += [] if wait else ["--no-wait"]
    done = head.run(*command, "--", "python", f"jobs/{job}.py", *map(str, arguments))
    shown = done.stdout + done.stderr
    match = re.search(r"raysubmit_\w+", shown)
    assert match, shown
    return match[0], shown


def status(head: Head, job: str) -> str:
    shown = head.run("ray", "job", "status", job)
    match = re.search("succeeded|failed|stopped|running|pending", shown.stdout + shown.stderr, re.I)
    return match[0].upper() if match else "UNKNOWN"


def upload(archive: Path, base: str) -> str:
    """Put the archive on S3 with a configuration of two quick fits; the URI of that."""
    for path in archive.iterdir():
        storage.write_bytes(f"{base}/archive/{path.name}", path.read_bytes())
    learner = {"steps": 5, "augment": {"views": 1}}
    config = {"archive": f"{base}/archive", "labels": f"{base}/archive/labels.csv"}
    config |= {"catalog": "phantoms", "shots": [2], "seeds": "0:2", "learner": learner}
    storage.write_bytes(f"{base}/config.yaml", yaml.safe_dump(config).encode())
    return f"{base}/config.yaml"


def test_the_lines_of_the_readme_start_a_cluster_of_one_node_and_train(
    archive, s3, tmp_path
) -> None:
    """As they stand on the page, in one shell, with real URIs for `s3://...`."""
    for port in DEFAULT_PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"something listens on port {port}, which a head takes by default")
    base = f"{s3}/readme"
    [line] = block("README.md", "ray job submit").splitlines()
    for uri in (upload(archive, base), f"{base}/train"):
        line = line.replace("s3://...", uri, 1)
    assert "..." not in line
    script = block("README.md", "export RAY_AUTH_MODE") + line
    mark = uuid.uuid4().hex
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # The token is written to the home of the user.
    environment |= {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment |= {"SDMAD_TEST": mark, "RAY_USAGE_STATS_ENABLED": "0"}
    shown = tmp_path / "shown"
    try:
        with shown.open("wb") as out:
            done = subprocess.run(
                ["bash", "-e", "-c", script], cwd=ROOT, env=environment, stdout=out, stderr=out,
                timeout=400,
            )  # fmt: skip
    finally:
        end_marked(mark)
    assert done.returncode == 0, shown.read_text()
    assert (tmp_path / ".ray" / "auth_token").is_file()
    assert list_fits(f"{base}/train").keys() == {(2, 0), (2, 1)}


def test_training_and_scoring_succeed_and_are_verified(head, archive, s3, tmp_path) -> None:
    base = f"{s3}/submitted"
    upload(archive, base)
    for job, *arguments in (
        ("train_seeds", "--config", f"{base}/config.yaml", "--output", f"{base}/train"),
        (
            *("score_archive", "--archive", f"{base}/archive", "--detector", f"{base}/train"),
            *("--output", f"{base}/scores"),
        ),
        ("verify_scores", "--archive", f"{base}/archive", "--scores", f"{base}/scores"),
    ):
        name, shown = submit(head, job, *arguments)
        assert status(head, name) == "SUCCEEDED", shown
    logs = head.run("ray", "job", "logs", name).stdout
    assert "300 images in the archive, 300 scored, 0 failures, 0 lost, 0 doubled" in logs
    assert verify_scores(f"{base}/archive", f"{base}/scores").passed


def test_a_failing_job_is_failed_with_its_sentence_last(head, s3, training_run) -> None:
    arguments = ["--archive", f"{s3}/nowhere", "--detector", training_run, "--output", f"{s3}/x"]
    name, _ = submit(head, "score_archive", *arguments)
    assert status(head, name) == "FAILED"
    lines = head.run("ray", "job", "logs", name).stdout.strip().splitlines()
    assert lines[-1].startswith("error: there is no archive at s3://test/nowhere"), lines[-5:]
    assert not any("Traceback" in line for line in lines)


def test_a_stopped_job_leaves_what_the_next_submission_resumes(
    head, s3, training_run, tmp_path
) -> None:
    base = f"{s3}/stopped"
    content = encode_png(draw_example(1, "test").image)
    for k in range(40):
        members = {f"{k}-{j}.png": content for j in range(40)}
        shard = write_tar(tmp_path / "s.tar", members).read_bytes()
        storage.write_bytes(f"{base}/archive/{k:02d}.tar", shard)
    arguments = ["--archive", f"{base}/archive", "--detector", training_run]
    arguments += ["--output", f"{base}/scores", "--batch-size", "8"]
    name, _ = submit(head, "score_archive", *arguments, wait=False)
    deadline = time.monotonic() + 150
    while sum(1 for _ in storage.list_objects(f"{base}/scores/scores")) < 3:
        assert time.monotonic() < deadline, head.run("ray", "job", "logs", name).stdout
        time.sleep(0.1)
    head.run("ray", "job", "stop", name)
    assert status(head, name) == "STOPPED"
    done = sum(1 for _ in storage.list_objects(f"{base}/scores/scores"))
    assert 3 <= done < 40
    name, shown = submit(head, "score_archive", *arguments)
    assert status(head, name) == "SUCCEEDED", shown
    record = json.loads(storage.read_bytes(f"{base}/scores/run.json"))
    assert record["units_skipped"] == done
    assert verify_scores(f"{base}/archive", f"{base}/scores").passed


def test_without_the_token_nothing_is_told(head, tmp_path) -> None:
    environment = head.environment | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    (tmp_path / "none").write_text("f" * 64)
    refused = subprocess.run(
        [str(BIN / "ray"), "job", "list"], env=environment, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert re.search("401|403|[Uu]nauth|[Ii]nvalid.*token", refused.stdout + refused.stderr)


def test_the_packaged_working_directory_is_small(tmp_path) -> None:
    """What `--working-dir .` uploads, by Ray's own packaging."""
    from ray._private.runtime_env.packaging import create_package

    target = tmp_path / "package.zip"
    create_package(str(ROOT), target, include_gitignore=True, excludes=[])
    size = target.stat().st_size
    assert size < LARGEST_PACKAGE
    names = zipfile.ZipFile(target).namelist()
    assert any("phantoms/weights/" in n for n in names)
    assert not any(Path(n).parts[:1] in ((".venv",), ("tests",), (".git",)) for n in names)
    print(f"working directory: {size / 1e6:.1f} MB", file=sys.stderr)
