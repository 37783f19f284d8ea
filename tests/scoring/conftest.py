"""One scoring run of an archive that holds everything, for all tests that only look at it; and a
small one without Ray."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from sdmad import storage
from sdmad.commands.score import score
from sdmad.method.learner import LearnerConfig
from sdmad.runtime.cluster import Resources
from sdmad.scoring import actor
from sdmad.scoring import images as scoring_images
from sdmad.scoring import run as scoring_run
from tests.archive.test_dicom import dataset, saved
from tests.helpers import CRASH, HANG, encoded, run_command, write_tar
from tests.scoring import helpers
from tests.scoring.helpers import TINY, Encoded, ScoredFolder, encoded_phantom, in_process


@dataclass(frozen=True)
class ScoredArchive:
    """An archive and the output of its run on S3; `shown` is what the command printed."""

    archive: str
    output: str
    shown: str


@pytest.fixture(scope="session")
def mixed(ray_cluster, s3, training_run, tmp_path_factory) -> ScoredArchive:
    """Shards with damaged members, a broken shard, loose objects, scans of several frames, and
    files that crash a decoder or keep it forever; scored once and never changed by tests."""
    folder, base = tmp_path_factory.mktemp("mixed"), f"{s3}/mixed"
    phantoms = {f"{k:02d}.png": encoded_phantom(k) for k in range(30)}
    few = {name: phantoms[name] for name in list(phantoms)[:6]}
    stack = np.random.default_rng(0).integers(0, 4000, (3, 64, 64), np.uint16)
    scan = saved(dataset(stack))
    shards = {
        "a/s0.tar": phantoms | {"cut.png": phantoms["00.png"][:200], "text.png": b"no image"},
        "a/s1.tar.gz": {"x.jpg": encoded(90, (200, 100), "RGB", "JPEG"), "notes.txt": b"-"},
        "a/scan.tar": {"scan.dcm": scan, "x.png": phantoms["01.png"]},
        "broken.tar": {"1.png": phantoms["01.png"], "2.png": phantoms["02.png"]},
        "crash.tar": few | {"crash.png": CRASH, "last.png": encoded(3)},
        "hang.tar": {"hang.png": HANG} | few,
    }
    for name, members in shards.items():
        path = folder / name.replace("/", "_")
        write_tar(path, members, "w:gz" if name.endswith("gz") else "w")
        content = path.read_bytes()
        if name == "broken.tar":
            content = content[: content.index(b"2.png") + 700]
        storage.write_bytes(f"{base}/{name}", content)
    loose = {f"{k}.png": phantoms[f"{k:02d}.png"] for k in range(3)} | {"bad.png": b"x"}
    loose |= {"IM0001": scan, "report.dcm": saved(dataset(stack, NumberOfFrames=9))}
    for name, content in loose.items():
        storage.write_bytes(f"{base}/loose/{name}", content)
    storage.write_bytes(f"{base}/labels.csv", b"not an image")
    output = f"{s3}/mixed-scores"
    result = run_command(
        *(score, "--archive", base, "--detector", training_run, "--output", output),
        *("--batch-size", 4, "--decode-seconds", 3, "--detector-calls", 2),
    )
    assert result.returncode == 0, result.stderr
    return ScoredArchive(base, output, result.stdout + result.stderr)


@pytest.fixture
def scored(tmp_path, monkeypatch) -> ScoredFolder:
    """Two shards and three loose images, scored without Ray and without a detector."""
    provenance = SimpleNamespace(
        catalog=SimpleNamespace(category_names=["one"], digest="c"),
        backbone="none",
        identity=SimpleNamespace(weights="0"),
        learner=LearnerConfig(),
        seed=0,
        spec=TINY,
    )
    fits = [SimpleNamespace(provenance=provenance, digest="d")]

    def stream(plan, task, config, output, tally, record) -> None:
        for unit in plan.todo:
            helpers.commit(output, unit)
            tally.units += 1

    monkeypatch.setattr(scoring_images, "load_fits", lambda _: fits)
    monkeypatch.setattr(scoring_run, "_stream", stream)
    made = ScoredFolder(tmp_path / "archive", tmp_path / "scores")
    for k in range(2):
        write_tar(made.archive / f"s{k}.tar", {f"{k}.png": encoded(k), f"{k}x.png": b"no image"})
    for name in ("a.png", "b.png", "c.png"):
        (made.archive / name).write_bytes(encoded())
    assert made.score().returncode == 0
    assert made.verify() == (0, [])
    return made


@pytest.fixture
def store(tmp_path, training_run, monkeypatch) -> Encoded:
    """Three units with 13 images and two failures, not encoded yet; its runs are without Ray."""
    monkeypatch.setattr(scoring_run, "stream_rows", in_process)
    monkeypatch.setattr(scoring_run, "connect", lambda: Resources(1, 0, fixed=True))
    monkeypatch.setattr(actor, "node_cpus", lambda: 1)
    made = Encoded(tmp_path, training_run)
    good = {f"{k:02d}.png": encoded_phantom(k) for k in range(10)}
    write_tar(made.archive / "s0.tar", good | {"text.png": b"no image"})
    write_tar(made.archive / "s1.tar", {"x.jpg": encoded(90, (200, 100), "RGB", "JPEG")})
    for k in range(2):
        (made.archive / f"{k}.png").write_bytes(encoded_phantom(20 + k))
    (made.archive / "bad.png").write_bytes(b"x")
    return made
