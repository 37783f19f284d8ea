"""Scoring runs end to end: Ray Data, an S3 bucket, a real detector."""

import json
import os
import signal
import subprocess
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
from sdmad.scoring.images import score_archive
from sdmad.scoring.plan import read_plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.run import progress_note
from sdmad.scoring.tally import Moment, Tally
from sdmad.scoring.verify import verify_scores
from sdmad.storage.parquet import decode, encode
from tests.helpers import ROOT, write_tar
from tests.scoring.helpers import (
    decision_file,
    encoded_phantom,
    finished,
    record,
    score_command,
    tables,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")
# Of the archive `mixed`: by shard in the order of their names, then loose ones.
SCORED = 30 + 1 + (3 + 1) + 1 + 7 + 6 + (3 + 3)
FAILED = 2 + 2 + 1 + 1 + 2


def test_each_image_is_once_in_scores_or_failures(mixed) -> None:
    verdict = verify_scores(mixed.archive, mixed.output)
    assert verdict.passed, vars(verdict)
    assert (verdict.scored, verdict.failed) == (SCORED, FAILED)
    failures = tables(mixed.output, "failures").to_pylist()
    reasons = {(f["archive"], f["member"]): (f["stage"], f["reason"]) for f in failures}
    assert reasons["a/s0.tar", "text.png"] == ("decode", "unknown image format")
    assert reasons["a/s0.tar", "cut.png"][1].startswith("damaged image")
    assert reasons["broken.tar", ""][0] == "read"
    assert reasons["", "loose/bad.png"][0] == "decode"


def test_columns_types_and_metadata_are_as_documented(mixed, catalog) -> None:
    schemas = set()
    for entry in storage.list_objects(f"{mixed.output}/scores"):
        schema = pq.read_schema(pa.BufferReader(storage.read_bytes(entry.uri)))
        schemas.add(schema.remove_metadata().to_string())
        metadata = {k.decode(): v.decode() for k, v in schema.metadata.items()}
        assert metadata["sdmad.backbone"].startswith("phantom ")
        assert metadata["sdmad.catalog"] == catalog.digest
        assert len(metadata["sdmad.detector"]) == 16
        assert metadata["sdmad.code_version"]
    assert len(schemas) == 1, "types do not vary between files"
    names = schema.names
    assert names[:5] == ["uri", "archive", "member", "anomaly_score", "anomaly_logit"]
    for category in catalog.category_names:
        assert {f"score_{category}", f"spread_{category}", f"seeds_{category}"} <= set(names)
    assert schema.field("seeds_tumour").type == pa.list_(pa.float32(), 3)
    assert not any(field.nullable for field in schema)


def test_the_library_gives_the_same_scores_as_the_job(mixed, training_run) -> None:
    detector = Detector.load(str(training_run))
    table = tables(mixed.output, "scores").to_pandas().set_index(["archive", "member"])
    images = [Image.fromarray(draw_example(k, "test").image) for k in range(30)]
    scores = detector.score(images)
    rows = table.loc[[("a/s0.tar", f"{k:02d}.png") for k in range(30)]]
    assert np.allclose(rows.anomaly_score, scores.anomaly, atol=1e-5)
    assert np.allclose(rows.anomaly_logit, scores.anomaly_logits, atol=1e-3)
    for c, name in enumerate(detector.catalog.category_names):
        assert np.allclose(rows[f"score_{name}"], scores.categories[:, c], atol=1e-5)
        assert np.allclose(np.stack(rows[f"seeds_{name}"]), scores.seeds[:, c], atol=1e-5)
    assert [list(f) for f in rows.findings] == scores.findings
    assert [[e["sign"] for e in row] for row in rows.signs] == [
        [e.sign for e in row] for row in scores.signs
    ]


def test_run_json_records_counts_and_time_by_stage(mixed) -> None:
    run = record(mixed.output)
    assert run["status"] == "finished"
    assert (run["units_total"], run["units_skipped"], run["units_scored"]) == (7, 0, 7)
    assert (run["images"], run["failures"]) == (SCORED, FAILED)
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
    tally.seconds["write"] = 40.0 * tally.writers
    assert tally.bottleneck() == "write"


def test_progress_names_no_rate_before_there_is_one() -> None:
    tally = Tally()
    assert progress_note(tally, 12.0) == ""
    tally.first = Moment(0.0, 0.0)
    assert progress_note(tally, 14.0) == "images arrive, the first work unit is not complete yet"
    tally.units, tally.images, tally.failures = 1, 12000, 1
    assert progress_note(tally, 10.0) == "12,000 images, 1 failure, 1,200 images/s"


def unfinished(run: str, output: str) -> str:
    """A copy of a run without the scores of one unit; returns where these were."""
    copied = [entry.uri for entry in storage.list_objects(run)]
    left = next(uri for uri in copied if "/scores/" in uri)
    for uri in copied:
        if uri != left:
            storage.write_bytes(output + uri.removeprefix(run), storage.read_bytes(uri))
    return output + left.removeprefix(run)


def test_an_output_holds_scores_of_one_precision(mixed, s3, training_run, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    output = f"{s3}/one-precision"
    unfinished(mixed.output, output)
    half = PipelineConfig(precision="half")
    with pytest.raises(UserError, match="holds scores in single precision"):
        score_archive(mixed.archive, str(training_run), output, half, per_seed=True)


@pytest.mark.usefixtures("joined")
def test_tables_of_a_run_that_an_older_version_began_stay_alike(
    mixed, s3, training_run, capsys
) -> None:
    output = f"{s3}/older"
    left = unfinished(mixed.output, output)
    before = [e.uri for e in storage.list_objects(f"{output}/scores")]
    for uri in before:
        table = decode(storage.read_bytes(uri)).drop_columns("anomaly_logit")
        storage.write_bytes(uri, encode(table))
    single = PipelineConfig(precision="single")
    score_archive(mixed.archive, str(training_run), output, single, per_seed=True)
    assert "without 1 column (anomaly_logit)" in capsys.readouterr().err
    schema = decode(storage.read_bytes(left)).schema
    older = decode(storage.read_bytes(before[0])).schema
    assert schema.names == older.names
    assert "anomaly_logit" not in schema.names

    storage.remove(left)
    for uri in before:
        table = decode(storage.read_bytes(uri))
        table = table.append_column("newer", pa.array([0.0] * len(table)))
        storage.write_bytes(uri, encode(table))
    with pytest.raises(UserError, match="with a column 'newer' that this version does not write"):
        score_archive(mixed.archive, str(training_run), output, single, per_seed=True)


@pytest.mark.usefixtures("joined")
def test_a_stopped_and_a_killed_run_resume_without_reading_finished_units(
    tmp_path, training_run
) -> None:
    """SIGTERM at the third unit, then the same command and SIGKILL between the failures and the
    scores of its third unit, then the same command with a new shard in the archive."""
    archive, output = tmp_path / "archive", tmp_path / "scores"
    for k in range(20):
        write_tar(archive / f"{k}.tar", {f"{k}-{j}.png": encoded_phantom(j) for j in range(6)})
    arguments = (archive, training_run, output)
    stopped = subprocess.run(
        score_command(*arguments, interrupted=("SIGTERM", 3)),
        cwd=ROOT,
        env=os.environ | {"SDMAD_LOG": "json"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert stopped.returncode == 128 + signal.SIGTERM
    assert stopped.stderr.splitlines()[-1].startswith("stopped; ")
    assert "Traceback" not in stopped.stderr
    events = [json.loads(line) for line in stopped.stderr.splitlines() if line.startswith("{")]
    assert {"progress", "unit committed"} <= {e["event"] for e in events}
    assert record(output)["status"] == "stopped"
    before = len(finished(output))
    assert record(output)["units_scored"] == before, "units being written are waited for"
    assert 3 <= before < 18

    killed = subprocess.run(
        score_command(*arguments, interrupted=("SIGKILL", 3)),
        cwd=ROOT,
        capture_output=True,
        timeout=200,
    )
    assert killed.returncode == -signal.SIGKILL
    assert record(output)["status"] == "running"
    assert record(output)["units_skipped"] == before
    done = finished(output)
    failures = {path.name for path in (output / "failures").glob("part-*.parquet")}
    assert len(done) == before + 2
    assert len(failures - set(done)) >= 1, "a unit has its failures and not its scores"

    # Finished units must not be read again: make them unreadable, keeping size and time.
    for unit in read_plan(str(output))[0]:
        if f"part-{unit.id}.parquet" in done:
            path = Path(unit.objects[0].uri)
            status = path.stat()
            path.write_bytes(b"\xff" * status.st_size)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    write_tar(archive / "new.tar", {"new.png": encoded_phantom(0)})
    # `single` is what `auto` was on CPUs.
    config = PipelineConfig(batch_size=8, precision="single")
    score_archive(str(archive), str(training_run), str(output), config)
    run = record(output)
    assert (run["units_skipped"], run["failures"]) == (len(done), 0)
    assert run["units_scored"] == 21 - len(done)
    scores = tables(str(output), "scores")
    assert scores.num_rows == len(set(scores["member"].to_pylist())) == 20 * 6 + 1
    after = finished(output)
    assert {name: after[name] for name in done} == done

    again = score_archive(str(archive), str(training_run), str(output), config)
    assert again.units == again.images == 0
    kept = record(output)
    assert kept.pop("checked") >= run["finished"]
    assert kept == run, "a run with nothing to do keeps the record of the last one"
    assert finished(output) == after


def test_a_decision_file_gives_findings_with_their_signs(training_run, tmp_path) -> None:
    """Thresholds far below 0.5, so that there are findings which the detector alone has not."""
    detector = Detector.load(str(training_run))
    images = {f"{k:02d}.png": encoded_phantom(k) for k in range(16)}
    (tmp_path / "archive").mkdir()
    write_tar(tmp_path / "archive" / "a.tar", images)
    file = decision_file(detector.digest, detector.catalog.category_names, threshold=0.1)
    decision, output = tmp_path / "decision.json", str(tmp_path / "out")
    decision.write_bytes(file.to_json())
    places = (str(tmp_path / "archive"), str(training_run), output, PipelineConfig())
    score_archive(*places, decision_uri=str(decision))
    rows = tables(output, "scores").sort_by("member")
    plain = detector.score(list(images.values()))
    wanted = file.decision.scores(plain.logits, plain.categories)
    names = detector.catalog.category_names
    for c, name in enumerate(names):
        assert rows[f"score_{name}"].to_numpy() == pytest.approx(wanted[:, c], abs=1e-5)
    found = [[names[c] for c in np.flatnonzero(row)] for row in file.decision.found(wanted)]
    assert rows["findings"].to_pylist() == found != plain.findings
    evidence = [[e["category"] for e in row] for row in rows["evidence"].to_pylist()]
    assert evidence == found, "also of findings that the detector alone has not"
    with pytest.raises(UserError, match="holds scores with decision"):
        score_archive(*places)
