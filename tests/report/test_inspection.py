"""The parts of the report that need the detector and the archive."""

import shutil
from dataclasses import replace

import numpy as np

from sdmad import Detector
from sdmad.archive.selected import decode_members
from sdmad.evaluation.measure import ScoredTest
from sdmad.report import examples, inspection
from sdmad.report.examples import IMAGES_PER_GROUP, heatmap_rows
from sdmad.report.inspection import inspect


def group_rows(test: ScoredTest) -> np.ndarray:
    return np.unique(np.concatenate(list(heatmap_rows(test).values())))


def test_detector_and_archive_give_audit_heatmap_and_located_examples(inspected, detector) -> None:
    found = inspected
    assert found.note == ""
    assert found.audit.signs.test_auroc.notna().any()
    against = (detector.rule.support_auc.numpy() <= 0.5).mean(0)[detector.catalog.membership]
    assert found.audit.signs.contradicted.tolist() == against.tolist()
    assert 0 < against.mean() < 1
    assert found.audit.pairs.test_confused.notna().any()
    assert found.heatmap.columns == ["normal", *detector.catalog.category_names]
    assert found.heatmap.rows == detector.catalog.sign_names
    framed = np.array([[cell.framed for cell in row] for row in found.heatmap.cells])
    assert (framed[:, 1:] == detector.catalog.membership.T).all()
    assert len(found.clear) >= 4
    assert len(found.uncertain) >= 1
    assert found.num_unlocated == 0
    for example in (*found.clear, *found.uncertain):
        located = [sign.sign for sign in found.located[example.name]]
        assert located == list(dict.fromkeys(sign for _, sign, _ in example.signs))


def test_similarities_are_measured_once_on_images_chosen_by_label(
    scored, detector, monkeypatch
) -> None:
    monkeypatch.setattr(examples, "IMAGES_PER_GROUP", 3)
    monkeypatch.setattr(inspection, "localised_gallery", lambda *arguments: {})
    given: list[np.ndarray] = []
    original = Detector.score_pixels

    def counted(self, pixels):
        given.extend(pixels)
        return original(self, pixels)

    monkeypatch.setattr(Detector, "score_pixels", counted)
    found = inspect(scored)
    rows = group_rows(scored)
    assert len(given) == found.images_read == len(rows) <= 21
    assert len({image.tobytes() for image in given}) == len(rows)
    named = [(str(scored.table.archive[r]), str(scored.table.member[r])) for r in rows]
    expected, _ = decode_members(scored.metadata["archive"], named, detector.spec)
    shown = {example.name for example in (*found.clear, *found.uncertain)}
    assert shown - {"/".join(name) for name in named}, "some shown images are not measured"
    assert {i.tobytes() for i in given} == {i.tobytes() for i in expected.values()}


def test_the_heatmap_shows_how_signs_separate_groups(scored, inspected, detector) -> None:
    shown = inspected.heatmap
    groups = heatmap_rows(scored)
    images_of, truth = {}, scored.truth
    for name, rows in groups.items():
        assert len(rows) <= IMAGES_PER_GROUP
        named = [(str(scored.table.archive[r]), str(scored.table.member[r])) for r in rows]
        pixels, _ = decode_members(scored.metadata["archive"], named, detector.spec)
        images = np.stack([pixels[name] for name in named])
        found = detector.score_pixels(images).similarities
        images_of[name] = dict(
            zip(rows.tolist(), found - found.mean(1, keepdims=True), strict=True)
        )
    every = {row: values for some in images_of.values() for row, values in some.items()}
    for column, name in enumerate(shown.columns):
        c = detector.catalog.category_names.index(name) if column else None
        lacks = [r for r in every if (truth[r].any() if c is None else not truth[r, c])]
        inside = np.stack(list(images_of[name].values()))
        outside = np.stack([every[r] for r in lacks])
        above = (inside[:, None] > outside[None]).mean(axis=(0, 1))
        texts = [float(row[column].text) for row in shown.cells]
        assert np.abs(np.array(texts) - 100 * above).max() < 1


def test_without_the_archive_only_the_audit_is_made(scored, tmp_path) -> None:
    elsewhere = replace(scored, metadata=scored.metadata | {"archive": str(tmp_path / "gone")})
    found = inspect(elsewhere)
    assert found.note == "Not shown: no test image could be read from the archive."
    assert found.audit.signs.weight.notna().all()
    assert found.audit.signs.test_auroc.isna().all()
    assert found.heatmap is None
    assert found.clear == found.uncertain == []


def test_without_the_detector_there_is_only_a_note(scored, tmp_path) -> None:
    gone = replace(scored, metadata=scored.metadata | {"detector_uri": str(tmp_path / "gone")})
    found = inspect(gone)
    assert found.note.startswith("Not shown: there is no detector at")
    assert found.audit is None


def test_a_detector_that_did_not_make_the_scores_is_not_audited(
    scored, training_run, tmp_path
) -> None:
    other = tmp_path / "fewer-seeds"
    shutil.copytree(training_run, other)
    next(other.rglob("seed=2.safetensors")).unlink()
    found = inspect(replace(scored, metadata=scored.metadata | {"detector_uri": str(other)}))
    assert found.note == f"Not shown: the detector at {other} did not make these scores."
    assert found.audit is None
