"""Verification finds lost, doubled and foreign rows, and broken shards."""

import pyarrow as pa
import pytest

from sdmad.scoring.plan import encode_plan
from sdmad.scoring.tables import FAILURES, commit_unit
from sdmad.scoring.verify import verify_scores
from sdmad.scoring.verify.run import slice_axis
from tests.helpers import encoded, write_tar

UNITS = ("0" * 16, "1" * 16)


def names(*members: str, archive: str = "s.tar") -> pa.Table:
    rows = [
        {"uri": "", "archive": archive, "member": m, "stage": "", "reason": ""} for m in members
    ]
    return pa.Table.from_pylist(rows, FAILURES)


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    write_tar(folder / "s.tar", {f"{k}.png": encoded() for k in range(3)})
    return str(folder), str(tmp_path / "out")


def test_scores_and_failures_together_cover_the_archive(place) -> None:
    commit_unit(place[1], UNITS[0], names("0.png", "2.png"), names("1.png"), {})
    verdict = verify_scores(*place)
    assert verdict.passed
    assert (verdict.images, verdict.scored, verdict.failed) == (3, 2, 1)


def test_a_lost_image_is_named(place) -> None:
    commit_unit(place[1], UNITS[0], names("0.png"), names("1.png"), {})
    verdict = verify_scores(*place)
    assert not verdict.passed
    assert verdict.lost == [("s.tar", "2.png")]


def test_a_doubled_image_is_named_in_one_table_or_across_two(place) -> None:
    commit_unit(place[1], UNITS[0], names("0.png", "1.png", "2.png"), names("1.png"), {})
    commit_unit(place[1], UNITS[1], names("0.png"), names(), {})
    verdict = verify_scores(*place)
    assert not verdict.passed
    assert verdict.doubled == [("s.tar", "0.png"), ("s.tar", "1.png")]


def test_a_foreign_row_is_named(place) -> None:
    commit_unit(place[1], UNITS[0], names("0.png", "1.png", "2.png", "x.png"), names(), {})
    verdict = verify_scores(*place)
    assert not verdict.passed
    assert verdict.foreign == [("s.tar", "x.png")]


def test_members_with_the_same_name_are_counted(place, tmp_path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "archive" / "s.tar", "a") as tar:
        info = tarfile.TarInfo("0.png")
        tar.addfile(info)
    commit_unit(place[1], UNITS[0], names("0.png", "1.png", "2.png"), names(), {})
    assert verify_scores(*place).lost == [("s.tar", "0.png")]
    commit_unit(place[1], UNITS[1], names("0.png"), names(), {})
    assert verify_scores(*place).passed


def test_slices_are_those_of_the_plan_before_any_unit_is_finished(tmp_path) -> None:
    metadata = {"archive": "x", "input": '{"slice_axis": "sagittal"}'}
    (tmp_path / "plan.parquet").write_bytes(encode_plan([], metadata))
    assert slice_axis(str(tmp_path)) == "sagittal"
