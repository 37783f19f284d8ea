"""A comparison on Ray: its metrics, what it skips, what it refuses."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from sdmad import storage
from sdmad.comparison import code, run
from sdmad.comparison.bootstrap import bootstrap
from sdmad.comparison.cell import Bench, TestImages, metrics
from sdmad.comparison.config import CompareConfig
from sdmad.comparison.run import cell_uri, compare, list_cells, stored_name
from sdmad.comparison.scores import read_possible, read_scores, read_stated, read_test, write_scores
from sdmad.errors import UserError
from sdmad.runtime.cluster import MODEL_ENVIRONMENT
from sdmad.storage import parquet
from sdmad.storage.run_record import read_record

QUICK = {"steps": 3, "augment": {"views": 2}}


def config(archive, **more: object) -> CompareConfig:
    content = {
        "archive": str(archive),
        "labels": f"{archive}/labels.csv",
        "catalog": "phantoms",
        "learner": QUICK,
        "shots": [2],
        "seeds": "0:2",
        "methods": ["sd_mad", "zero_shot_signs"],
    }
    return CompareConfig.model_validate(content | more)


@pytest.fixture(scope="module")
def environments(tmp_path_factory) -> Path:
    """A folder with the environment of each process of `compared`."""
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(scope="module")
def compared(archive, ray_cluster, tmp_path_factory, environments):
    class Observed(run.Comparer):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            (environments / str(os.getpid())).write_text(json.dumps(dict(os.environ)))

    output = str(tmp_path_factory.mktemp("compared"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Comparer", Observed)
        return output, compare(config(archive), output)


@pytest.mark.usefixtures("compared")
def test_processes_have_the_environment_of_models(environments) -> None:
    found = [json.loads(path.read_text()) for path in environments.iterdir()]
    assert len(found) == 2
    assert all(one.items() >= MODEL_ENVIRONMENT.items() for one in found)


def test_every_method_has_every_metric_on_every_support(compared) -> None:
    output, results = compared
    assert len(results) == 2 * 2 * 8
    assert set(results.seed) == {0, 1}
    assert results.value.between(0, 1).all()
    assert len(list_cells(output)) == 4
    for cell in list_cells(output):
        assert code.made_by(parquet.decode(Path(cell_uri(output, *cell)).read_bytes())) == (
            code.present()
        )
    truth, patients = read_test(output)
    assert truth.shape == (100, 6)
    assert patients.max() + 1 <= 100


def test_metrics_equal_those_computed_without_ray(
    compared, supports, backbone, catalog, archive
) -> None:
    from sdmad.archive.selected import decode_members
    from sdmad.inputs.labels import load_labels

    output, results = compared
    setting = config(archive)
    table = load_labels(f"{archive}/labels.csv", catalog.category_names)
    test = table.where(table.split == "test")
    names = list(zip(test.archive.tolist(), test.member.tolist(), strict=True))
    pixels, _ = decode_members(str(archive), names, backbone.spec)
    images = TestImages(np.stack([pixels[name] for name in names]), test.labels)
    bench = Bench(backbone, catalog, setting.learner, setting.budget, images)
    for method in setting.names:
        scores, anomaly, possible, stated = bench.score(method, None, supports[1])
        cell = cell_uri(output, stored_name(setting, method), 2, 1)
        for written, expected in zip(read_scores(cell), (scores, anomaly), strict=True):
            assert written == pytest.approx(expected, abs=2e-3)
        stored = read_possible(cell)
        assert (stored is None) == (possible is None) == (method != "sd_mad")
        assert possible is None or (stored == possible).mean() > 0.98
        kept = read_stated(cell)
        assert (kept is None) == (stated is None) == (method != "sd_mad")
        assert stated is None or np.column_stack(kept) == pytest.approx(stated, abs=2e-3)
        for (protocol, metric), value in metrics(test.labels, scores, anomaly).items():
            row = results[
                (results.method == method)
                & (results.seed == 1)
                & (results.protocol == protocol)
                & (results.metric == metric)
            ]
            assert row.value.item() == pytest.approx(value, abs=2e-3), (method, metric)


def test_the_bootstrap_resamples_the_stored_scores(compared, archive) -> None:
    output, results = compared
    found = bootstrap(config(archive, bootstrap=50), output)
    for (method, shots, protocol, metric), means in found.means.items():
        rows = results[(results.protocol == protocol) & (results.metric == metric)]
        value = rows[(rows.method == method) & (rows.shots == shots)].value.mean()
        assert means.mean() == pytest.approx(value, abs=0.05), (method, metric)
        assert 0 < means.std() < 0.2


def test_existing_cells_are_skipped_and_a_new_method_computes_only_its_own(
    compared, archive, monkeypatch, tmp_path
) -> None:
    """On one actor, where the first cells were computed on as many as there are cores."""
    before, results = compared
    output = str(shutil.copytree(before, tmp_path / "compared"))
    monkeypatch.setattr(run, "_actors", lambda *arguments: (1, 0.0))
    variants = {"lambda=1": {"learner": {"adapter": {"image": {"frozen_weight": 1.0}}}}}
    more = compare(config(archive, variants=variants), output)
    assert read_record(output)["cells_skipped"] == 4
    old = more[more.method != "lambda=1"].reset_index(drop=True)
    assert old.equals(results.reset_index(drop=True))
    assert len(list_cells(output)) == 6
    again = compare(config(archive, variants=variants), output)
    assert read_record(output)["cells_skipped"] == 6
    assert again.equals(more)


def test_cells_of_other_code_are_taken_over_and_told(
    archive, tmp_path, monkeypatch, capsys
) -> None:
    setting = config(archive, methods=["zero_shot_signs"], reference="zero_shot_signs", seeds="0:1")
    place = cell_uri(str(tmp_path), stored_name(setting, "zero_shot_signs"), 2, 0)
    write_scores(place, ["tumour"], np.zeros((1, 1)), np.zeros(1))
    cell = pa.table({"method": ["zero_shot_signs"], "shots": [2], "seed": [0], "value": [0.5]})
    storage.write_bytes(place, parquet.encode(code.stamped(cell)))
    assert len(compare(setting, str(tmp_path))) == 1
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(code, "present", lambda: "0.2.0 (aaaaaaaa)")
    monkeypatch.chdir(tmp_path)
    assert len(compare(setting, str(tmp_path))) == 1
    told = capsys.readouterr().err
    assert told.startswith("notice: 1 of all 1 cells were made by other code than this, 0.2.0 (")
    assert "remove them below cells or give another --output" in told


def test_another_catalog_is_refused(compared, archive, catalog, tmp_path) -> None:
    output, _ = compared
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(catalog.model_dump(mode="json") | {"modality": "other"}))
    with pytest.raises(UserError, match="holds cells with another"):
        compare(config(archive, catalog=str(changed)), output)


def test_perfect_scores_have_perfect_metrics() -> None:
    truth = np.random.default_rng(0).random((60, 3)) < 0.4
    found = metrics(truth, truth.astype(np.float32), truth.any(axis=1).astype(np.float32))
    assert set(found.values()) == {1.0}


def test_anomaly_scores_count_for_anomaly_detection_alone() -> None:
    truth = np.random.default_rng(0).random((60, 3)) < 0.4
    found = metrics(truth, truth.astype(np.float32), 1 - truth.any(axis=1).astype(np.float32))
    assert found.pop(("anomaly detection", "auroc")) == 0
    assert found.pop(("anomaly detection", "average_precision")) < 0.9
    assert set(found.values()) == {1.0}


def test_a_process_that_dies_is_started_again_with_large_arguments(
    archive, joined, tmp_path, monkeypatch
) -> None:
    """Ray keeps arguments of more than 100 KB outside of the message that starts a process."""
    died = tmp_path / "died"

    class Dying(run.Comparer):
        def measure(self, *arguments: object):
            for method in super().measure(*arguments):
                yield method
                if not died.exists():
                    died.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

    def read_more(*arguments: object):
        pixels, problems = read_images(*arguments)
        some = next(iter(pixels.values()))
        return pixels | {("padding", str(k)): some for k in range(20_000)}, problems

    read_images = run.read_images
    monkeypatch.setattr(run, "Comparer", Dying)
    monkeypatch.setattr(run, "read_images", read_more)
    methods = ["zero_shot_signs", "zero_shot_names"]
    output = str(tmp_path / "output")
    found = compare(config(archive, methods=methods, reference="zero_shot_signs"), output)
    assert died.exists()
    assert len(found) == 2 * 2 * 8


def test_a_damaged_test_image_is_named_with_what_to_do(own_archive, joined, tmp_path) -> None:
    (own_archive / "damaged.png").write_bytes(b"no image")
    table = own_archive / "labels.csv"
    header, *rows = table.read_text().splitlines()
    columns = header.split(",")
    new = {"archive": "", "member": "damaged.png", "patient_id": "x", "split": "test"}
    row = ",".join(new.get(name, "") for name in columns)
    table.write_text("\n".join([header, *rows, row]) + "\n")
    with pytest.raises(UserError) as told:
        compare(config(own_archive), str(tmp_path / "output"))
    message = str(told.value)
    assert message.startswith("the labelled image damaged.png cannot be used: ")
    assert message.endswith("; replace such images, or remove their rows from the label table")
