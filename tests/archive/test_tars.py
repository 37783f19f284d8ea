"""Tar shards: links, unusual members, concatenated tars, endings."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from sdmad.archive import tars
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members, read_unit
from sdmad.archive.units import cut_units
from tests.archive.test_members import fix_checksums
from tests.helpers import encoded, write_tar


def read(path: Path) -> list[tuple[str, bytes | None, str]]:
    (unit,) = cut_units(str(path), list_archive(str(path)))
    return [(member.name, member.content, member.reason) for member in read_unit(unit)]


def gnu_tar(path: Path, folder: Path, *options: str) -> list[str]:
    """Pack a folder with the program `tar`; returns the names that it lists."""
    subprocess.run(["tar", "-C", folder, "--sort=name", *options, "-cf", path, "."], check=True)
    listed = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if not name.endswith("/")]


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"], ["-z"], ["-J"]])
def test_links_have_the_content_of_what_they_lead_to(tmp_path, options) -> None:
    folder = tmp_path / "folder"
    (folder / "d").mkdir(parents=True)
    (folder / "a.png").write_bytes(encoded(1))
    (folder / "d" / "b.png").write_bytes(encoded(2))
    os.link(folder / "a.png", folder / "d" / "hard.png")
    (folder / "d" / "soft.png").symlink_to("../a.png")
    (folder / "e.png").symlink_to("d/soft.png")
    (folder / "before.png").symlink_to("d/b.png")
    (folder / "through.png").symlink_to("links/b.png")
    (folder / "links").symlink_to("d")
    (folder / "notes.txt").symlink_to("a.png")
    names = gnu_tar(tmp_path / "s.tar", folder, *options)
    rows = read(tmp_path / "s.tar")
    assert sorted(row[0] for row in rows) == sorted(n for n in names if n != "./notes.txt")
    assert {name: (content, reason) for name, content, reason in rows} == {
        "./a.png": (encoded(1), ""),
        "./d/b.png": (encoded(2), ""),
        "./d/hard.png": (encoded(1), ""),
        "./d/soft.png": (encoded(1), ""),
        "./e.png": (encoded(1), ""),
        "./before.png": (encoded(2), ""),
        "./through.png": (encoded(2), ""),
        "./links": (None, "a link to a folder"),
    }
    wanted = [("s.tar", name) for name, content, _ in rows if content]
    assert read_members(str(tmp_path), wanted) == {
        ("s.tar", name): content for name, content, _ in rows if content
    }


def test_links_that_lead_nowhere_have_a_reason(tmp_path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, target in (
        ("loop1.png", "loop2.png"),
        ("loop2.png", "loop1.png"),
        ("outside.png", "../other.png"),
        ("system.png", "/usr/x.png"),
    ):
        (folder / name).symlink_to(target)
    gnu_tar(tmp_path / "s.tar", folder)
    loop = "the link leads back to itself"
    assert sorted(read(tmp_path / "s.tar")) == [
        ("./loop1.png", None, loop),
        ("./loop2.png", None, loop),
        ("./outside.png", None, "a link to ../other.png, which is not in the shard"),
        ("./system.png", None, "a link to /usr/x.png, which is not in the shard"),
    ]


def test_links_before_the_break_of_a_shard_are_not_lost(tmp_path) -> None:
    path = write_tar(tmp_path / "s.tar", {"a.png": encoded(1)})
    with tarfile.open(path, "a") as tar:
        for name, target in (("b.png", "a.png"), ("c.png", "last.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info)
        info = tarfile.TarInfo("last.png")
        info.size = 5000
        tar.addfile(info, io.BytesIO(bytes(5000)))
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"last.png") + 1024])
    rows = read(path)
    assert [(name, reason[:40]) for name, _, reason in rows] == [
        ("a.png", ""),
        ("last.png", "the shard breaks off within this image"),
        ("b.png", ""),
        ("c.png", "a link to last.png, and the shard breaks"),
        ("", "the shard breaks off: ReadError: unexpec"),
    ]
    assert rows[2][1] == encoded(1)


@pytest.mark.parametrize("between", [b"", bytes(512), bytes(700)])
def test_concatenated_tars_are_read_to_the_end(tmp_path, between) -> None:
    parts = [
        write_tar(
            tmp_path / f"{k}.part", {f"{k}{n}.png": encoded(k) for n in range(3)}
        ).read_bytes()
        for k in range(3)
    ]
    path = tmp_path / "s.tar"
    path.write_bytes(parts[0] + parts[1] + parts[2] + between)
    assert [row[0] for row in read(path)] == [f"{k}{n}.png" for k in range(3) for n in range(3)]
    assert all(content for _, content, _ in read(path))
    found = read_members(str(tmp_path), [("s.tar", "21.png")])
    assert found == {("s.tar", "21.png"): encoded(2)}


def test_data_after_the_end_of_a_tar_has_a_reason(tmp_path) -> None:
    path = write_tar(tmp_path / "s.tar", {"a.png": encoded(1)})
    path.write_bytes(path.read_bytes() + b"garbage" * 100)
    assert [(name, bool(content)) for name, content, _ in read(path)] == [
        ("a.png", True),
        ("", False),
    ]
    assert "data after the end of the tar" in read(path)[1][2]


def test_only_files_are_images(tmp_path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind in (
            ("folder", tarfile.DIRTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("device", tarfile.BLKTYPE),
            ("volume", b"V"),
            ("contiguous.png", tarfile.CONTTYPE),
            ("vendor.png", b"Q"),
            ("rest.png", b"M"),
        ):
            info = tarfile.TarInfo(name)
            info.type = kind
            has_data = name.endswith(".png")
            info.size = len(encoded()) if has_data else 0
            tar.addfile(info, io.BytesIO(encoded()) if has_data else None)
    assert read(path) == [
        ("contiguous.png", encoded(), ""),
        ("vendor.png", encoded(), ""),
        ("rest.png", None, "continued from another volume of the tar"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(600), "it is a zip archive, not a tar"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "it is a 7z archive, not a tar"),
    ],
)
def test_another_file_has_a_reason_that_names_it(tmp_path, content, reason) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    ((name, _, found),) = read(tmp_path / "s.tar")
    assert (name, found) == ("", f"the shard breaks off: ReadError: {reason}")


def test_the_names_of_a_shard_are_those_of_its_images(tmp_path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded())
    (folder / "l.png").symlink_to("a.png")
    (folder / "n.json").write_text("{}")
    gnu_tar(tmp_path / "s.tar", folder)
    with (tmp_path / "s.tar").open("rb") as stream:
        assert list(tars.names(stream)) == [name for name, _, _ in tars.members(stream)]


def test_times_in_the_headers_of_incremental_tars_are_no_part_of_names(tmp_path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(1))
    option = f"--listed-incremental={tmp_path}/snapshot"
    names = gnu_tar(tmp_path / "s.tar", folder, "--format=gnu", option)
    assert read(tmp_path / "s.tar") == [(name, encoded(1), "") for name in names]


@pytest.mark.parametrize("place", [100, 108, 116, 136, 329, 337])
def test_fields_that_do_not_matter_may_be_damaged(tmp_path, place) -> None:
    """Mode, owner, group, time, device. GNU tar reads on too."""
    path = write_tar(tmp_path / "s.tar", {"a.png": encoded(1), "b.png": encoded(2)})
    content = bytearray(path.read_bytes())
    content[place : place + 7] = b"nobody!"
    path.write_bytes(fix_checksums(bytes(content)))
    assert read(path) == [("a.png", encoded(1), ""), ("b.png", encoded(2), "")]
