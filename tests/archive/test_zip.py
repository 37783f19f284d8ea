"""Zip shards: range requests, and damage that is limited to one member."""

import zipfile
from pathlib import Path

import pytest

from sdmad import storage
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members, read_unit
from sdmad.archive.units import WorkUnit, cut_units
from sdmad.scoring.verify import verify_scores
from tests.helpers import encoded


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("folder/", b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def units(base: str) -> list[WorkUnit]:
    return list(cut_units(base, list_archive(base)))


def read(base: str) -> list[tuple[int, str, str, bytes | None, str]]:
    return [
        (k, m.archive, m.name, m.content, m.reason)
        for u in units(base)
        for k, m in enumerate(read_unit(u))
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_zip_is_read_like_a_tar(tmp_path, s3, method, where) -> None:
    members = {f"d/{k}.png": encoded(k) for k in (3, 1, 2)}
    content = write_zip(tmp_path / "x.zip", members | {"notes.txt": b"-"}, method).read_bytes()
    base = str(tmp_path / "a") if where == "local" else f"{s3}/zip-{tmp_path.name}"
    storage.write_bytes(f"{base}/s.zip", content)
    rows = read(base)
    expected = [(k, "s.zip", name, data, "") for k, (name, data) in enumerate(members.items())]
    assert rows == expected
    wanted = [("s.zip", "d/1.png"), ("s.zip", "none.png")]
    assert read_members(base, wanted) == {("s.zip", "d/1.png"): encoded(1)}


def test_a_damaged_member_has_a_reason_and_the_rest_is_read(tmp_path) -> None:
    path = write_zip(tmp_path / "s.zip", {f"{k}.png": encoded(k, (90, 90)) for k in range(3)})
    content = bytearray(path.read_bytes())
    content[content.index(b"1.png") + 60] ^= 0xFF
    path.write_bytes(content)
    rows = read(str(tmp_path))
    assert [row[2] for row in rows] == ["0.png", "1.png", "2.png"]
    assert [bool(row[3]) for row in rows] == [True, False, True]
    assert "CRC" in rows[1][4]


def test_a_zip_without_its_directory_has_a_reason_and_is_reported_by_verification(tmp_path) -> None:
    path = write_zip(tmp_path / "a" / "s.zip", {"1.png": encoded()})
    path.write_bytes(path.read_bytes()[:-60])
    (row,) = read(str(tmp_path / "a"))
    assert row[2] == ""
    assert "breaks off" in row[4]
    assert verify_scores(str(tmp_path / "a"), str(tmp_path / "out")).broken == ["s.zip"]


def test_verification_counts_the_members_of_a_zip(tmp_path) -> None:
    write_zip(tmp_path / "a" / "s.zip", {f"{k}.png": encoded() for k in range(3)})
    verdict = verify_scores(str(tmp_path / "a"), str(tmp_path / "out"))
    assert verdict.lost == [("s.zip", f"{k}.png") for k in range(3)]


def test_a_large_zip_is_not_downloaded_for_a_few_members(tmp_path, s3, bytes_asked) -> None:
    members = {f"{k:02d}.bin": bytes(1_000_000) for k in range(40)} | {"wanted.png": encoded(5)}
    content = write_zip(tmp_path / "s.zip", members).read_bytes()
    base = f"{s3}/large-zip-{tmp_path.name}"
    storage.write_bytes(f"{base}/s.zip", content)
    found = read_members(base, [("s.zip", "wanted.png")])
    assert found == {("s.zip", "wanted.png"): encoded(5)}
    assert sum(bytes_asked) < len(content) / 10
