"""Zip shards: range requests, and damage that is limited to one member."""

import io
import stat
import struct
import warnings
import zipfile
import zlib
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


def test_names_are_read_as_utf8_where_they_are_valid_and_in_code_page_437_otherwise(
    tmp_path,
) -> None:
    """`zipfile` writes ASCII and UTF-8 names; the flag and the bytes are changed here."""
    path = tmp_path / "s.zip"
    stored = [("1.png", "ü.png".encode()), ("2.png", b"\x81.png"), ("3.png", b"c\xff.png")]
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Two names are equal until then.
        for name, raw in stored:
            archive.writestr("x" * len(raw), encoded(int(name[0])))
        archive.writestr("日本.png", encoded(4))
    content = path.read_bytes()
    for _, raw in stored:
        content = content.replace(b"x" * len(raw), raw, 1)
    directory = content.index(b"PK\x01\x02")
    head, tail = content[:directory], content[directory:]
    for _, raw in stored:
        tail = tail.replace(b"x" * len(raw), raw, 1)
    path.write_bytes(head + tail)
    names = [row[2] for row in read(str(tmp_path))]
    assert names == ["ü.png", "ü.png", b"c\xff.png".decode("cp437"), "日本.png"]
    found = read_members(str(tmp_path), [("s.zip", "日本.png"), ("s.zip", names[2])])
    assert found == {("s.zip", "日本.png"): encoded(4), ("s.zip", names[2]): encoded(3)}


def test_the_unicode_path_field_of_info_zip_is_used(tmp_path) -> None:
    info = zipfile.ZipInfo("a_.png")
    name = "aß.png".encode()
    info.extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, zlib.crc32(b"a_.png")) + name
    other = zipfile.ZipInfo("b.png")
    other.extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, 0) + name
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(info, encoded())
        archive.writestr(other, encoded())
    assert [row[2] for row in read(str(tmp_path))] == ["aß.png", "b.png"]


def test_symbolic_links_have_the_content_of_what_they_lead_to(tmp_path) -> None:
    links = {"d/l.png": "../a.png", "m.png": "d/l.png", "n.png": "no.png", "o.png": "o.png"}
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("a.png", encoded(1))
        for name, target in links.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    assert {row[2]: row[3:] for row in read(str(tmp_path))} == {
        "a.png": (encoded(1), ""),
        "d/l.png": (encoded(1), ""),
        "m.png": (encoded(1), ""),
        "n.png": (None, "a link to no.png, which is no file of the shard"),
        "o.png": (None, "the link leads back to itself"),
    }


def test_members_that_cannot_be_unpacked_have_a_reason_in_words(tmp_path) -> None:
    path = write_zip(tmp_path / "s.zip", {f"{k}.png": encoded(k) for k in range(4)})
    content = bytearray(path.read_bytes())
    start = 0
    for k, (flags, method) in enumerate([(1, 0), (0, 9), (0, 93), (0, 0)]):
        start = content.index(b"PK\x01\x02", start + 1)
        while f"{k}.png".encode() != content[start + 46 : start + 51]:
            start = content.index(b"PK\x01\x02", start + 1)
        content[start + 8] |= flags
        content[start + 10] = method
    path.write_bytes(content)
    assert [(row[2], row[4]) for row in read(str(tmp_path))] == [
        ("0.png", "cannot be unpacked: it is encrypted"),
        ("1.png", "cannot be unpacked: the method Deflate64 is not read"),
        ("2.png", "cannot be unpacked: the method Zstandard is not read"),
        ("3.png", ""),
    ]
    wanted = [("s.zip", "0.png"), ("s.zip", "3.png")]
    assert read_members(str(tmp_path), wanted) == {("s.zip", "3.png"): encoded(3)}


def test_members_of_one_name_absolute_and_parent_names_are_data(tmp_path) -> None:
    names = ["a.png", "a.png", "/abs.png", "../up.png", "d\\win.png"]
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, name in enumerate(names):
            archive.writestr(name, encoded(k))
    assert [row[2:4] for row in read(str(tmp_path))] == [
        (name, encoded(k)) for k, name in enumerate(names)
    ]


def test_what_precedes_a_zip_is_skipped_unless_it_is_another_zip(tmp_path) -> None:
    first = write_zip(tmp_path / "first", {"1.png": encoded(1)}).read_bytes()
    second = write_zip(tmp_path / "second", {"2.png": encoded(2)}).read_bytes()
    for prefix, reasons in (
        (b"#!/bin/sh\n", []),
        (first, ["the zip begins with members that its directory does not list"]),
    ):
        storage.write_bytes(str(tmp_path / "a" / "s.zip"), prefix + second)
        rows = read(str(tmp_path / "a"))
        assert [row[4] for row in rows if not row[2]] == reasons
        assert rows[-1][2:] == ("2.png", encoded(2), "")


def test_zip64_and_sizes_after_the_data_are_read(tmp_path) -> None:
    class NoSeek(io.RawIOBase):
        def __init__(self, sink: io.BufferedWriter) -> None:
            self.sink = sink

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:
            return self.sink.write(data)

    path = tmp_path / "s.zip"
    with (
        path.open("wb") as sink,
        zipfile.ZipFile(NoSeek(sink), "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        with archive.open("a.png", "w", force_zip64=True) as member:
            member.write(encoded(1))
        archive.writestr("b.png", encoded(2))
    assert [row[2:] for row in read(str(tmp_path))] == [
        ("a.png", encoded(1), ""),
        ("b.png", encoded(2), ""),
    ]


def test_members_whose_place_is_wrong_have_a_reason_and_the_others_are_read(tmp_path) -> None:
    path = write_zip(tmp_path / "s.zip", {f"{k}.png": encoded(k) for k in range(3)})
    content = path.read_bytes()
    path.write_bytes(content[20:])
    with zipfile.ZipFile(path) as archive:
        lost = {info.filename for info in archive.infolist() if info.header_offset < 0}
    rows = {row[2]: row[3:] for row in read(str(tmp_path))}
    assert lost == {"folder/"}
    assert rows == {f"{k}.png": (encoded(k), "") for k in range(3)}
    start = content.index(b"0.png") - 30
    path.write_bytes(content[start + 20 :])
    rows = {row[2]: row[3:] for row in read(str(tmp_path))}
    reason = "cannot be unpacked: the directory places it before the start of the zip"
    assert rows.pop("0.png") == (None, reason)
    assert rows == {f"{k}.png": (encoded(k), "") for k in (1, 2)}


def test_a_member_without_a_name_is_an_image(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("x", encoded(1))
        archive.writestr("y.png", encoded(2))
    content = bytearray((tmp_path / "s.zip").read_bytes())
    for mark, place in ((b"PK\x03\x04", 26), (b"PK\x01\x02", 28)):
        # The one letter of the name becomes an extra field.
        struct.pack_into("<HH", content, content.index(mark) + place, 0, 1)
    (tmp_path / "s.zip").write_bytes(content)
    assert [row[2:4] for row in read(str(tmp_path))] == [("", encoded(1)), ("y.png", encoded(2))]
