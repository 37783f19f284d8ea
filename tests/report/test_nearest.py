"""The nearest support images of findings by appearance."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdmad import Detector
from sdmad.archive.selected import decode_members
from sdmad.fitting.supports import FITS
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.labels import load_labels
from sdmad.report.examples import Example
from sdmad.report.nearest import nearest_supports


def example(name: str, categories: list[str], signs: list[str]) -> Example:
    return Example(
        picture="",
        name=name,
        anomaly=0.9,
        truth=[],
        findings=[(category, 0.9, 0.0) for category in categories],
        uncertain=[],
        signs=[(category, "sign", 0.1) for category in signs],
        evidence={category: 1.0 if category in signs else -1.0 for category in categories},
        verdict="right",
    )


@pytest.fixture(scope="module")
def run(archive: Path, training_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training run with the record that `sdmad train` writes."""
    output = Path(shutil.copytree(training_run, tmp_path_factory.mktemp("nearest") / "run"))
    config = {"archive": str(archive), "labels": str(archive / "labels.csv")}
    (output / "run.json").write_text(json.dumps({"job": "train_seeds", "config": config}))
    return output


@pytest.fixture(scope="module")
def support(archive: Path, detector: Detector) -> SupportRef:
    names = detector.catalog.category_names
    labels = load_labels(str(archive / "labels.csv"), names)
    return SupportRef.draw(labels, detector.provenance.shots, detector.seeds[0])


def test_a_support_image_is_nearest_to_itself(support, archive, detector, run) -> None:
    names = detector.catalog.category_names
    pixels, _ = decode_members(str(archive), support.images, detector.spec)
    gallery, stacked, own = [], [], []
    for image, truth in zip(support.images, support.labels, strict=True):
        for c in np.flatnonzero(truth):
            gallery.append(example(f"{len(gallery)}", [names[c]], []))
            stacked.append(pixels[image])
            own.append("/".join(image))
    found = nearest_supports(detector, f"{run}/fits", gallery, stacked)
    for e, name in zip(gallery, own, strict=True):
        [near] = found[e.name]
        assert (near.category, near.name) == (e.findings[0][0], name)
        assert near.similarity == pytest.approx(1, abs=1e-5)
        assert near.picture.startswith("data:image/png")
    assert "nearest support image with" in near.caption


def test_only_findings_by_appearance_have_one(support, archive, detector, run) -> None:
    a, b, *_ = detector.catalog.category_names
    pixels = [
        next(iter(decode_members(str(archive), support.images[:1], detector.spec)[0].values()))
    ]
    found = nearest_supports(detector, str(run), [example("x", [a, b], [a])], pixels)
    assert [near.category for near in found["x"]] == [b]
    assert not nearest_supports(detector, str(run), [example("x", [a], [a])], pixels)


RUNS = ("/data/fits/odir", "s3://bucket/fits", "runs/fits-2")
WITHIN = ("", "/", "/fits", "/fits/shots=4", "/fits/shots=4/seed=0.safetensors")


@pytest.mark.parametrize(
    ("run", "within"),
    # A training run in a folder called fits is named by its fits.
    [(r, w) for r in RUNS for w in WITHIN if not r.endswith("/fits") or w.startswith("/fits")],
)
def test_the_training_run_of_a_detector(run, within) -> None:
    assert FITS.sub("", run + within).rstrip("/") == run


def test_without_the_training_run_there_are_none(detector, training_run, tmp_path) -> None:
    shutil.copytree(training_run / "fits", tmp_path / "fits")
    gallery = [example("x", detector.catalog.category_names[:1], [])]
    pixels = [np.zeros((*detector.spec.size, 3), np.uint8)]
    assert not nearest_supports(detector, f"{tmp_path}/fits", gallery, pixels)
