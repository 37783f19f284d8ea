import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.fits import deserialize, find_detector, list_fits, load_fits


def test_a_fit_is_read_as_it_was_written(training_run, fitted, catalog) -> None:
    model, rule = fitted
    fits = load_fits(str(training_run))
    for index, fit in enumerate(fits):
        assert fit.provenance.seed == index
        assert fit.provenance.catalog == catalog
        assert torch.equal(fit.tensors["parts"], rule.parts[index])
        assert torch.equal(fit.tensors["image.0.down"], model.image_adapters.layers[0].down[index])


def test_a_detector_is_a_training_run_a_shots_folder_or_a_file(training_run) -> None:
    whole = find_detector(str(training_run))
    assert len(whole) == 3
    assert find_detector(str(training_run / "fits" / "shots=2")) == whole
    assert find_detector(whole[1]) == [whole[1]]
    assert set(list_fits(str(training_run))) == {(2, 0), (2, 1), (2, 2)}


def test_a_run_with_several_numbers_of_shots_asks_to_choose(training_run, tmp_path) -> None:
    run = Path(shutil.copytree(training_run, tmp_path / "run"))
    shutil.copytree(run / "fits" / "shots=2", run / "fits" / "shots=4")
    with pytest.raises(UserError, match="has fits with 2 and 4 shots; choose one of"):
        find_detector(str(run))


def test_a_place_without_a_detector_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="there is no detector at"):
        find_detector(str(tmp_path))


def test_other_files_are_not_fits() -> None:
    for content in (b"", b"not safetensors", save({"a": torch.zeros(1)})):
        with pytest.raises(UserError, match="is not a fit"):
            deserialize(content, "x.safetensors")


def test_a_fit_of_an_older_format_is_refused(training_run) -> None:
    path = find_detector(str(training_run))[0]
    content = Path(path).read_bytes().replace(rb'"format\":6', rb'"format\":5')
    with pytest.raises(UserError, match="fit it again"):
        deserialize(content, path)


def test_fits_of_different_catalogs_are_refused(training_run, tmp_path) -> None:
    run = Path(shutil.copytree(training_run, tmp_path / "run"))
    path = run / "fits" / "shots=2" / "seed=1.safetensors"
    content = path.read_bytes()
    changed = content.replace(b"a dark crack", b"a dark c-ack")
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(UserError, match=r"do not belong together.*another catalog"):
        load_fits(str(run))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("weights", "f" * 16, "weights ffff"),
        ("architecture", "other", "another architecture"),
        ("tokenizer", "other", "another tokenizer"),
        ("activation", "quick_gelu", "activation quick_gelu instead of gelu"),
        ("input", {"mean": (0.5, 0.5, 0.5)}, r"input format .*mean \(0.5"),
    ],
)
def test_a_detector_refuses_another_backbone(
    training_run, backbone, monkeypatch, field, value, words
) -> None:
    from sdmad import detector

    identity = backbone.identity
    if field == "input":
        value = replace(identity.input, **value)
    changed = replace(backbone, identity=identity.model_copy(update={field: value}))
    monkeypatch.setattr(detector, "load_backbone", lambda config, device: changed)
    with pytest.raises(UserError, match=f"was fitted to another backbone.*{words}"):
        Detector.load(str(training_run))


def test_the_same_fit_has_the_same_bytes(supports, backbone, catalog, training_run) -> None:
    from sdmad.fits import serialize
    from sdmad.method.learner import fit_batch
    from tests.conftest import QUICK

    learner = QUICK.model_copy(update={"steps": 2})
    provenance = load_fits(str(training_run))[0].provenance
    files = []
    for _ in range(2):
        model, rule = fit_batch(backbone, catalog, supports[:1], learner)
        files.append(serialize(model, rule, 0, provenance))
    assert files[0] == files[1]
    assert np.frombuffer(files[0][:8], "<u8")[0] > 0


def test_a_folder_of_two_training_runs_is_refused(training_run, tmp_path) -> None:
    for name in ("first", "second"):
        shutil.copytree(training_run, tmp_path / name)
    with pytest.raises(UserError, match="holds several training runs"):
        find_detector(str(tmp_path))
