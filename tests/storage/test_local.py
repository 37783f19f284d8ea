"""Local folders: links, what cannot be read, names that are not UTF-8."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdmad import storage
from sdmad.errors import UserError
from sdmad.storage import ObjectError

NOBODY = 65534


def listed(root: Path) -> dict[str, int]:
    return {storage.relative(e.uri, str(root)): e.size for e in storage.list_objects(str(root))}


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """A folder of an ordinary user, whom this process becomes: root may read everything."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        folder = Path(scratch)
        was_root = os.geteuid() == 0
        if was_root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if was_root:
                os.seteuid(0)
            for path in folder.iterdir():
                path.chmod(0o700)


def test_links_are_followed_and_broken_ones_are_listed(tmp_path) -> None:
    """As `find -L` lists them."""
    root, other = tmp_path / "archive", tmp_path / "other"
    for name in ("archive/b/1.png", "other/2.png", "other/deep/3.png", "other/.hidden"):
        storage.write_bytes(str(tmp_path / name), b"12345")
    (root / "folder").symlink_to(other)
    (root / "file.png").symlink_to("b/1.png")
    (root / "broken.png").symlink_to("nowhere.png")
    (root / "loop.png").symlink_to("loop.png")
    os.link(root / "b/1.png", root / "hard.png")
    assert listed(root) == {
        "b/1.png": 5,
        "broken.png": 0,
        "file.png": 5,
        "folder/2.png": 5,
        "folder/deep/3.png": 5,
        "hard.png": 5,
        "loop.png": 0,
    }


def test_a_folder_is_not_entered_again_inside_itself(tmp_path) -> None:
    for name in ("a/1.png", "b/2.png"):
        storage.write_bytes(str(tmp_path / name), b"1")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    assert sorted(listed(tmp_path)) == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]


def test_what_may_not_be_read_is_listed_and_reading_it_gives_the_reason(plain_user) -> None:
    for name in ("1.png", "2.png", "closed/3.png", "names_only/4.png"):
        storage.write_bytes(str(plain_user / name), b"1")
    (plain_user / "2.png").chmod(0)
    (plain_user / "closed").chmod(0)
    (plain_user / "names_only").chmod(0o400)
    assert listed(plain_user) == {"1.png": 1, "2.png": 1, "closed/": 0, "names_only/4.png": 0}
    for name in ("2.png", "closed/", "names_only/4.png"):
        with pytest.raises(ObjectError) as caught:
            storage.read_bytes(f"{plain_user}/{name}")
        assert caught.value.reason == "cannot be read: permission denied"


def test_an_archive_that_may_not_be_listed_is_a_user_error(plain_user) -> None:
    (plain_user / "a").mkdir(0)
    with pytest.raises(UserError, match="permission denied"):
        listed(plain_user / "a")


def test_a_link_to_itself_has_a_reason_at_once(tmp_path) -> None:
    (tmp_path / "x.png").symlink_to("x.png")
    with pytest.raises(ObjectError, match="the link leads back to itself"):
        storage.read_bytes(str(tmp_path / "x.png"))


def test_names_that_are_not_utf8_can_be_listed_and_read(tmp_path) -> None:
    names = [b"caf\xe9.png", rb"caf\xe9.png", "café.png".encode(), b"d\xff/x.png"]
    for k, name in enumerate(names):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([k]))
    entries = list(storage.list_objects(str(tmp_path)))
    assert {
        storage.relative(e.uri, str(tmp_path)): storage.read_bytes(e.uri, e) for e in entries
    } == {
        r"caf\xe9.png": b"\x00",
        r"caf\x5cxe9.png": b"\x01",
        "café.png": b"\x02",
        r"d\xff/x.png": b"\x03",
    }


def test_pipes_are_left_out(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert listed(tmp_path) == {}
