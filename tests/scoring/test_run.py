"""Scoring runs end to end: Ray Data, an S3 bucket, a real detector."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sdmad import Detector, storage
from sdmad.errors import UserError
from sdmad.phantoms.task import draw_example
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.run import Tally, score_archive
from sdmad.scoring.verify import verify_scores
from tests.helpers import ROOT, encoded, write_tar

pytestmark = pytest.mark.usefixtures("ray_cluster")


def tables(output: str, kind: str) -> pa.Table:
    uris = sorted(e.uri for e in storage.list_objects(f"{output}/{kind}"))
    return pa.concat_tables(pq.read_table(pa.BufferReader(storage.read_bytes(u))) for u in uris)


def record(output: str) -> dict:
    return json.loads(storage.read_bytes(f"{output}/run.json"))


@pytest.fixture(scope="module")
def bucket(s3, tmp_path_factory) -> str:
    """Two shards with damaged members, one broken shard, and loose objects."""
    folder, base = tmp_path_factory.mktemp("mixed"), f"{s3}/mixed"
    images = {f"{k:02d}.png": encoded_phantom(k) for k in range(30)}
    contents = {
        "a/s0.tar": images | {"cut.png": encoded_phantom(0)[:200], "text.png": b"no image"},
        "a/s1.tar.gz": {"x.jpg": encoded(90, (200, 100), "RGB", "JPEG"), "notes.txt": b"-"},
        "broken.tar": {"1.png": encoded_phantom(1), "2.png": encoded_phantom(2)},
    }
    for name, members in contents.items():
        path = folder / name.replace("/", "_")
        write_tar(path, members, "w:gz" if name.endswith("gz") else "w")
        content = path.read_bytes()
        if name == "broken.tar":
            content = content[: content.index(b"2.png") + 700]
        storage.write_bytes(f"{base}/{name}", content)
    for k in range(3):
        storage.write_bytes(f"{base}/loose/{k}.png", encoded_phantom(k))
    storage.write_bytes(f"{base}/loose/bad.png", b"x")
    storage.write_bytes(f"{base}/labels.csv", b"not an image")
    return base


def encoded_phantom(index: int) -> bytes:
    from sdmad.phantoms.task import encode_png

    return encode_png(draw_example(index, "test").image)


@pytest.fixture(scope="module")
def scored(bucket, s3, training_run) -> str:
    output = f"{s3}/mixed-scores"
    score_archive(bucket, str(training_run), output, PipelineConfig(batch_size=8), per_seed=True)
    return output


def test_each_image_is_once_in_scores_or_failures(scored, bucket) -> None:
    verdict = verify_scores(bucket, scored)
    assert verdict.passed, vars(verdict)
    assert (verdict.scored, verdict.failed) == (30 + 1 + 1 + 3, 2 + 2 + 1)
    failures = tables(scored, "failures").to_pylist()
    reasons = {(f["archive"], f["member"]): (f["stage"], f["reason"]) for f in failures}
    assert reasons["a/s0.tar", "text.png"] == ("decode", "unknown image format")
    assert reasons["a/s0.tar", "cut.png"][1].startswith("damaged image")
    assert reasons["broken.tar", ""][0] == "read"
    assert reasons["", "loose/bad.png"][0] == "decode"


def test_columns_types_and_metadata_are_as_documented(scored, catalog) -> None:
    schemas = set()
    for entry in storage.list_objects(f"{scored}/scores"):
        schema = pq.read_schema(pa.BufferReader(storage.read_bytes(entry.uri)))
        schemas.add(schema.remove_metadata().to_string())
        metadata = {k.decode(): v.decode() for k, v in schema.metadata.items()}
        assert metadata["sdmad.backbone"].startswith("phantom ")
        assert metadata["sdmad.catalog"] == catalog.digest
        assert len(metadata["sdmad.detector"]) == 16
        assert metadata["sdmad.code_version"]
    assert len(schemas) == 1, "types do not vary between files"
    names = schema.names
    assert names[:4] == ["uri", "archive", "member", "anomaly_score"]
    for category in catalog.category_names:
        assert {f"score_{category}", f"spread_{category}", f"seeds_{category}"} <= set(names)
    assert schema.field("seeds_tumour").type == pa.list_(pa.float32(), 3)
    assert not any(field.nullable for field in schema)


def test_the_library_gives_the_same_scores_as_the_job(scored, training_run) -> None:
    detector = Detector.load(str(training_run))
    table = tables(scored, "scores").to_pandas().set_index(["archive", "member"])
    images = [Image.fromarray(draw_example(k, "test").image) for k in range(30)]
    scores = detector.score(images)
    rows = table.loc[[("a/s0.tar", f"{k:02d}.png") for k in range(30)]]
    assert np.allclose(rows.anomaly_score, scores.anomaly, atol=1e-5)
    for c, name in enumerate(detector.catalog.category_names):
        assert np.allclose(rows[f"score_{name}"], scores.categories[:, c], atol=1e-5)
        assert np.allclose(np.stack(rows[f"seeds_{name}"]), scores.seeds[:, c], atol=1e-5)
    assert [list(f) for f in rows.findings] == scores.findings
    assert [[e["sign"] for e in row] for row in rows.signs] == [
        [e.sign for e in row] for row in scores.signs
    ]


def test_run_json_records_counts_and_time_by_stage(scored) -> None:
    run = record(scored)
    assert run["status"] == "finished"
    assert (run["units_total"], run["units_skipped"], run["units_scored"]) == (4, 0, 4)
    assert (run["images"], run["failures"]) == (35, 5)
    assert run["images_per_second"] > 0
    assert run["driver_cpu_seconds"] > 0
    assert run["precision"] == "auto"
    assert set(run["stage_share"]) == {"list", "read", "decode", "model", "write"}
    assert sum(run["stage_share"].values()) == pytest.approx(1, abs=0.01)
    assert run["bottleneck"] in run["stage_share"]


def test_the_bottleneck_depends_on_how_many_readers_and_detectors_fit() -> None:
    tally = Tally(readers=14, detectors=1)
    tally.seconds |= {"read": 9.0, "decode": 63.0, "model": 31.0, "write": 0.5}
    assert tally.bottleneck() == "model"
    tally.readers = 2
    assert tally.bottleneck() == "decode"
    tally.seconds["write"] = 40.0
    assert tally.bottleneck() == "write"


def test_the_same_command_again_scores_only_new_objects(s3, training_run, tmp_path) -> None:
    archive, output = f"{s3}/growing", f"{s3}/growing-scores"
    shard = write_tar(tmp_path / "0.tar", {"1.png": encoded_phantom(1)}).read_bytes()
    storage.write_bytes(f"{archive}/0.tar", shard)
    config = PipelineConfig()
    assert score_archive(archive, str(training_run), output, config).units == 1
    before = {e.uri: e.etag for e in storage.list_objects(f"{output}/scores")}
    again = score_archive(archive, str(training_run), output, config)
    assert again.units == again.images == 0
    assert record(output)["units_skipped"] == 1
    shard = write_tar(tmp_path / "1.tar", {"2.png": encoded_phantom(2)}).read_bytes()
    storage.write_bytes(f"{archive}/1.tar", shard)
    assert score_archive(archive, str(training_run), output, config).images == 1
    after = {e.uri: e.etag for e in storage.list_objects(f"{output}/scores")}
    assert before.items() <= after.items()
    assert len(after) == 2
    assert verify_scores(archive, output).passed


def test_an_output_holds_scores_of_one_precision(training_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    archive, output = tmp_path / "archive", str(tmp_path / "scores")
    archive.mkdir()
    write_tar(archive / "0.tar", {"1.png": encoded_phantom(1)})
    score_archive(str(archive), str(training_run), output, PipelineConfig())
    assert record(output)["pipeline"]["detector_threads"] >= 1
    write_tar(archive / "1.tar", {"2.png": encoded_phantom(2)})
    with pytest.raises(UserError, match="holds scores in single precision"):
        half = PipelineConfig(precision="half")
        score_archive(str(archive), str(training_run), output, half)
    single = PipelineConfig(precision="single")  # On CPUs, auto means single.
    assert score_archive(str(archive), str(training_run), output, single).images == 1


@pytest.mark.usefixtures("joined")
def test_a_killed_run_resumes_without_reading_finished_units(tmp_path, training_run) -> None:
    """SIGKILL in the middle of a run, then the same command; the result passes verification."""
    archive, output = tmp_path / "archive", tmp_path / "scores"
    archive.mkdir()
    content = encoded_phantom(3)
    for k in range(40):
        write_tar(archive / f"{k:02d}.tar", {f"{k}-{j}.png": content for j in range(30)})
    command = [sys.executable, "jobs/score_archive.py", "--archive", str(archive)]
    command += ["--detector", str(training_run), "--output", str(output), "--batch-size", "8"]
    driver = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(finished(output)) < 5:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = finished(output)
    assert 5 <= len(done) < 40
    assert record(str(output))["status"] == "running"
    # Finished units must not be read again: make them unreadable, keeping size and time.
    from sdmad.scoring.plan import read_plan

    for unit in read_plan(str(output))[0]:
        if f"part-{unit.id}.parquet" in done:
            path = Path(unit.objects[0].uri)
            status = path.stat()
            path.write_bytes(b"\xff" * status.st_size)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    score_archive(str(archive), str(training_run), str(output), PipelineConfig(batch_size=8))
    run = record(str(output))
    assert run["units_skipped"] == len(done)
    assert run["units_scored"] == 40 - len(done)
    assert run["failures"] == 0
    scores = tables(str(output), "scores")
    assert scores.num_rows == len(set(scores["member"].to_pylist())) == 1200
    after = finished(output)
    assert {name: after[name] for name in done} == done


def finished(output: Path) -> dict[str, int]:
    folder = output / "scores"
    parts = folder.glob("part-*.parquet") if folder.is_dir() else ()
    return {p.name: p.stat().st_mtime_ns for p in parts}
