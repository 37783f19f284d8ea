"""Images unlike the support, from activations made without Ray."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdmad.commands.summary import summary
from sdmad.errors import UserError
from sdmad.evaluation import unlike
from sdmad.evaluation.unlike import LEAST_SUPPORT, far_from_others, unlike_support
from sdmad.report import summary as report
from sdmad.runtime.cluster import Resources
from sdmad.scoring import actor
from sdmad.scoring import run as scoring_run
from sdmad.scoring.similar import Search
from tests.helpers import encoded, run_command, write_tar
from tests.scoring.helpers import Encoded, encoded_phantom, in_process, tables


def unit_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, 8)) + 2
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_share_expected_by_chance_is_that_of_images_like_the_support() -> None:
    rng, beyond = np.random.default_rng(0), []
    for _ in range(40):
        support, others = unit_vectors(rng, 60), unit_vectors(rng, 400)
        threshold, expected = far_from_others(support, np.arange(60))
        beyond.append(((others @ support.T).max(axis=1) < threshold).mean())
    assert expected == pytest.approx(3 / 61)
    assert np.mean(beyond) == pytest.approx(expected, abs=0.01)


def test_images_of_the_same_patient_do_not_count() -> None:
    support = np.repeat(unit_vectors(np.random.default_rng(0), 20), 2, axis=0)
    same, _ = far_from_others(support, np.repeat(np.arange(20), 2))
    assert same < 0.999
    assert far_from_others(support, np.arange(40))[0] == pytest.approx(1)
    with pytest.raises(UserError, match=f"{LEAST_SUPPORT} are needed"):
        far_from_others(support, np.zeros(40))


@pytest.fixture
def store(
    tmp_path: Path, archive: Path, training_run: Path, monkeypatch: pytest.MonkeyPatch
) -> Encoded:
    """Ten phantoms and a black picture, encoded and scored, and the record of the training run."""
    monkeypatch.setattr(scoring_run, "stream_rows", in_process)
    monkeypatch.setattr(scoring_run, "connect", lambda: Resources(1, 0, fixed=True))
    monkeypatch.setattr(actor, "node_cpus", lambda: 1)
    monkeypatch.setattr(unlike, "BY_CHANCE", 0.2)
    monkeypatch.setattr(report, "localised_gallery", lambda *_: {})
    detector = Path(shutil.copytree(training_run, tmp_path / "train"))
    config = {"archive": str(archive), "labels": str(archive / "labels.csv")}
    (detector / "run.json").write_text(json.dumps({"job": "train_seeds", "config": config}))
    made = Encoded(tmp_path, detector)
    good = {f"{k:02d}.png": encoded_phantom(k) for k in range(10)}
    write_tar(made.archive / "s0.tar", good | {"text.png": b"no image"})
    write_tar(made.archive / "s1.tar", {"x.jpg": encoded(0, (200, 100), "RGB", "JPEG")})
    assert made.encode().returncode == 0
    assert made.score().returncode == 0
    return made


def test_the_summary_shows_what_is_unlike_the_support(store, tmp_path) -> None:
    search = Search.open(str(store.activations))
    found = unlike_support(search, str(store.detector), 3, search.units)
    assert (found.images, found.seeds_left) == (11, 0)
    assert found.farthest[0].uri.endswith("s1.tar#x.jpg")
    assert 1 <= found.beyond <= 2
    assert found.farthest[0].cosine < found.threshold < 1
    cosines = [far.cosine for far in found.farthest]
    assert cosines == sorted(cosines)
    places = ("--scores", store.scores, "--output", tmp_path / "out")
    ended = run_command(summary, *places, "--activations", store.activations)
    assert ended.returncode == 0, ended.stderr
    assert "are unlike anything in the support;" in ended.stdout
    page = (tmp_path / "out" / "summary.html").read_text()
    section = page[page.index('<section id="unlike">') :]
    assert section.index("s1.tar/x.jpg") < section.index("s0.tar/")
    assert "<strong>likeness</strong>" in section
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["unlike_support"]["beyond"] == found.beyond
    assert tables(str(store.scores), "scores").num_rows == 11


def test_activations_of_other_images_are_refused(store, tmp_path) -> None:
    other = Encoded(tmp_path / "other", store.detector)
    write_tar(other.archive / "s.tar", {"1.png": encoded_phantom(1)})
    assert other.encode().returncode == 0
    options = ("--output", tmp_path / "out", "--activations", other.activations)
    refused = run_command(summary, "--scores", store.scores, *options)
    assert (refused.returncode, "no work unit in common" in refused.stderr) == (2, True)
