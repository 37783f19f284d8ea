"""Training again with a changed label table, without Ray: the fits themselves are stand-ins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save

from sdmad.errors import UserError
from sdmad.fits import find_detector, fit_uri, read_provenance
from sdmad.fitting import run
from sdmad.fitting.config import TrainConfig
from sdmad.fitting.status import read_status
from sdmad.storage.run_record import read_record
from tests.conftest import QUICK

Train = Callable[..., int]


@pytest.fixture
def made(
    monkeypatch: pytest.MonkeyPatch, training_run: Path, backbone
) -> list[tuple[int | str, int]]:
    """Makes training runs write stand-ins for fits, and lists which they have made."""
    like = read_provenance(find_detector(str(training_run))[0])
    assert like
    fits: list[tuple[int | str, int]] = []

    def fit(missing: list[Any], *rest: Any) -> None:
        output = rest[2]
        for support in missing:
            facts = {"shots": support.asked, "seed": support.seed, "support_digest": support.digest}
            header = like.model_copy(update=facts).model_dump_json()
            path = Path(fit_uri(output, support.shots, support.seed))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(save({"a": torch.zeros(1)}, {"sdmad": header}))
            fits.append((support.shots, support.seed))

    monkeypatch.setattr(run, "_fit_missing", fit)
    monkeypatch.setattr(run, "_check_backbone", lambda *_: backbone.spec)
    monkeypatch.setattr(run, "_pixels", lambda *_: {})
    monkeypatch.setattr(run, "connect", lambda: None)
    monkeypatch.setattr(run, "check_names", lambda names, archive: None)
    return fits


@pytest.fixture
def table(archive: Path, tmp_path: Path) -> Callable[[Callable[[list[str]], list[str]]], Path]:
    """Writes the label table of the archive, its lines changed by a function."""

    def write(change: Callable[[list[str]], list[str]]) -> Path:
        header, *lines = (archive / "labels.csv").read_text().splitlines()
        path = tmp_path / "labels.csv"
        path.write_text("\n".join([header, *change(lines)]) + "\n")
        return path

    return write


@pytest.fixture
def train(archive: Path, tmp_path: Path) -> Train:
    def command(labels: Path, shots: Any = 2, seeds: str = "0:6", **options: Any) -> int:
        settings = {"archive": str(archive), "labels": str(labels), "catalog": "phantoms"}
        settings |= {"learner": QUICK, "shots": shots, "seeds": seeds}
        config = TrainConfig.model_validate(settings)
        return run.train_seeds(config, str(tmp_path / "train"), **options)

    return command


def few(lines: list[str]) -> list[str]:
    """The table before it grows: without every tenth image of the pool."""
    pool = [line for line in lines if ",pool," in line]
    return [line for line in lines if line not in set(pool[::10])]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def test_only_supports_that_new_labels_touch_are_fitted_again(
    table, train, made, tmp_path, capsys
) -> None:
    output = tmp_path / "train"
    assert train(table(few)) == 6
    before, digest = contents(output / "fits"), read_record(str(output))["identity"]["labels"]
    made.clear()
    capsys.readouterr()
    again = train(table(lambda lines: lines))
    said = capsys.readouterr().err
    after = contents(output / "fits")
    changed = {name for name in before if before[name] != after[name]}
    assert 0 < again == len(made) == len(changed) < 6
    assert "label table: 20 images are new (" in said
    assert f"{again} of 6 fits made again, because the support has changed; the fits" in said
    assert "pool-" not in said
    # The detector of before stays whole, and can be loaded from its own place.
    earlier = output / "earlier" / digest
    assert contents(earlier / "fits") == before
    assert len(find_detector(str(earlier))) == len(find_detector(str(output))) == 6
    record = read_record(str(output))
    assert record["fits_replaced"] == again
    assert record["labels_changed"]["new"] == 20
    assert train(tmp_path / "labels.csv") == 0
    assert capsys.readouterr().err == ""


def test_a_refit_equals_a_training_from_the_grown_table(table, train, made, tmp_path) -> None:
    train(table(few))
    train(table(lambda lines: lines))
    grown = contents(tmp_path / "train" / "fits")
    (tmp_path / "train").rename(tmp_path / "first")
    train(tmp_path / "labels.csv")
    assert contents(tmp_path / "train" / "fits") == grown


def test_the_order_of_the_table_and_rows_of_the_test_split_touch_no_fit(
    table, train, made, capsys
) -> None:
    train(table(lambda lines: [line for line in lines if ",test," not in line or "7," in line]))
    shuffled = np.random.default_rng(0).permutation(300)
    assert train(table(lambda lines: [lines[k] for k in shuffled])) == 0
    assert "no support has changed: all fits are kept" in capsys.readouterr().err


def test_an_interrupted_refit_goes_on_and_says_the_same(
    table, train, made, tmp_path, monkeypatch, capsys
) -> None:
    output = tmp_path / "train"
    train(table(few))
    digest = read_record(str(output))["identity"]["labels"]
    before, whole = contents(output / "fits"), table(lambda lines: lines)
    fit = run._fit_missing

    def killed(missing: list[Any], *rest: Any) -> None:
        fit(missing[:1], *rest)
        raise UserError("killed")

    monkeypatch.setattr(run, "_fit_missing", killed)
    with pytest.raises(UserError, match="killed"):
        train(whole)
    # What has still to be replaced is not counted as done.
    state = read_status(str(output))
    assert state.fits_done == read_record(str(output))["fits_skipped"] + 1
    monkeypatch.setattr(run, "_fit_missing", fit)
    made.clear()
    capsys.readouterr()
    assert train(whole) == state.fits_total - state.fits_done == len(made)
    assert "20 images are new" in capsys.readouterr().err
    assert contents(output / "earlier" / digest / "fits") == before
    assert read_status(str(output)).fits_done == 6


def test_changed_and_removed_labels_are_counted_and_named_on_request(
    table, train, made, capsys
) -> None:
    train(table(lambda lines: lines))

    def change(lines: list[str]) -> list[str]:
        pool = [line for line in lines if ",pool," in line]
        relabelled = pool[3].rsplit(",", 1)[0] + ",tumour;abscess"
        moved = pool[4].replace(",pool,", ",validation,")
        return [{pool[3]: relabelled, pool[4]: moved}.get(x, x) for x in lines if x != pool[5]]

    train(table(change), names=True)
    said = capsys.readouterr().err
    for text in ("has other labels", "is in another split", "is gone from it"):
        (line,) = [line for line in said.splitlines() if text in line]
        assert line.startswith("notice: label table: 1 image ")
        assert ".png" in line


def test_another_table_is_refused(table, train, made) -> None:
    train(table(lambda lines: lines))
    with pytest.raises(UserError, match="no image in common"):
        train(table(lambda lines: [line.replace(".png", ".jpg") for line in lines]))


def test_without_the_table_of_before_the_changes_are_not_known(
    table, train, made, tmp_path, capsys
) -> None:
    train(table(few))
    (kept,) = (tmp_path / "train" / "labels").iterdir()
    kept.unlink()
    assert train(table(lambda lines: lines)) > 0
    assert "the one before was not kept" in capsys.readouterr().err


def test_fits_outside_the_grid_of_the_command_are_named(table, train, made, capsys) -> None:
    train(table(few))
    train(table(lambda lines: lines), seeds="0:2")
    assert "4 fits of earlier labels not looked at" in capsys.readouterr().err


def test_patients_are_not_kept(table, train, made, tmp_path) -> None:
    train(table(few))
    (path,) = (tmp_path / "train" / "labels").iterdir()
    assert pq.read_table(path).column_names == ["archive", "member", "split", "labels"]


def test_shots_by_category_have_a_folder_of_their_own(table, train, made, tmp_path) -> None:
    labels = table(lambda lines: lines)
    assert train(labels, [{"tumour": 4, "default": 2}, "all"], "0:2") == 4
    output = tmp_path / "train"
    fits = find_detector(str(output / "fits" / "shots=2.tumour-4"))
    known = read_provenance(fits[0])
    assert known
    assert known.shots == {"default": 2, "tumour": 4}
    with pytest.raises(UserError, match=r"has fits with 2\.tumour-4 and all shots; choose"):
        find_detector(str(output))
    rows = pq.read_table(output / "fits.parquet").to_pylist()
    assert {row["shots"] for row in rows} == {"2.tumour-4", "all"}
    assert read_status(str(output)).fits_by_shots == {"2.tumour-4": 2, "all": 2}
    assert json.loads((output / "run.json").read_text())["shots"] == ["2.tumour-4", "all"]
    with pytest.raises(UserError, match="'tumor', which the catalog does not have; is 'tumour'"):
        train(labels, {"tumor": 4, "default": 2})
