"""Reading work units from local files and from S3."""

import io
import tarfile

import pytest

from sdmad import storage
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members, read_unit
from sdmad.archive.units import WorkUnit, cut_units
from tests.helpers import encoded, write_tar


def units(base: str) -> list[WorkUnit]:
    return list(cut_units(base, list_archive(base), group=3))


def read(base: str) -> list[tuple[int, str, str, bytes | None, str]]:
    return [
        (k, m.archive, m.name, m.content, m.reason)
        for u in units(base)
        for k, m in enumerate(read_unit(u))
    ]


def fix_checksums(content: bytes) -> bytes:
    """The tar with the checksums of all headers corrected."""
    blocks = bytearray(content)
    for start in range(0, len(blocks), 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + 512])
    return bytes(blocks)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_a_shard_is_read_in_stored_order(tmp_path, suffix) -> None:
    members = {f"d/{k}.png": encoded(k) for k in (3, 1, 2)}
    write_tar(tmp_path / f"s.{suffix}", members, "w" if suffix == "tar" else "w:gz")
    assert read(str(tmp_path)) == [
        (k, f"s.{suffix}", name, content, "") for k, (name, content) in enumerate(members.items())
    ]


def test_sidecars_directories_and_system_files_are_skipped(tmp_path) -> None:
    names = [
        "a.png",
        "a.json",
        "labels.csv",
        ".hidden.png",
        "__MACOSX/a.png",
        "x/DICOMDIR",
        "IM0001",
    ]
    path = write_tar(tmp_path / "s.tar", {name: encoded() for name in names})
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert [name for _, _, name, _, _ in read(str(tmp_path))] == ["a.png", "IM0001"]


def test_loose_objects_are_grouped_and_named_by_path(tmp_path) -> None:
    for k in range(5):
        storage.write_bytes(str(tmp_path / f"p{k % 2}" / f"{k}.png"), encoded(k))
    storage.write_bytes(str(tmp_path / "notes.txt"), b"no image")
    assert [len(u.objects) for u in units(str(tmp_path))] == [3, 2]
    rows = read(str(tmp_path))
    assert [row[:3] for row in rows] == [
        (0, "", "p0/0.png"),
        (1, "", "p0/2.png"),
        (2, "", "p0/4.png"),
        (0, "", "p1/1.png"),
        (1, "", "p1/3.png"),
    ]
    assert rows[1][3] == encoded(2)


def test_a_truncated_shard_gives_its_complete_members_and_a_reason(tmp_path) -> None:
    path = write_tar(tmp_path / "s.tar", {f"{k}.png": encoded(k, (99, 99)) for k in range(4)})
    content = path.read_bytes()
    third = content.index(b"2.png")
    path.write_bytes(content[: third + 600])
    rows = read(str(tmp_path))
    assert [row[2] for row in rows] == ["0.png", "1.png", "2.png", ""]
    assert [bool(row[3]) for row in rows] == [True, True, False, False]
    assert "breaks off" in rows[2][4]
    assert "breaks off" in rows[3][4]
    assert [row[0] for row in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", ["header", "cut_in_header", "cut_at_header", "no_end"])
def test_a_damaged_header_or_a_missing_end_has_a_reason(tmp_path, damage) -> None:
    """`tarfile` alone stops there without an error, and verification would miss images."""
    from sdmad.scoring.verify import verify_scores

    path = write_tar(tmp_path / "a" / "s.tar", {f"{k}.png": encoded(k) for k in range(6)})
    content = bytearray(path.read_bytes())
    fourth = content.index(b"3.png")
    if damage == "header":
        content[fourth + 150] ^= 0xFF  # its checksum
    path.write_bytes(
        {
            "header": content,
            "cut_in_header": content[: fourth + 100],
            "cut_at_header": content[:fourth],
            "no_end": content[: content.index(b"5.png") + 1024],
        }[damage]
    )
    rows = read(str(tmp_path / "a"))
    whole = 6 if damage == "no_end" else 3
    assert [row[2] for row in rows] == [f"{k}.png" for k in range(whole)] + [""]
    assert "breaks off" in rows[-1][4]
    assert verify_scores(str(tmp_path / "a"), str(tmp_path / "out")).broken == ["s.tar"]


def test_a_damaged_gzip_has_a_reason(tmp_path) -> None:
    path = write_tar(tmp_path / "s.tgz", {f"{k}.png": encoded(k) for k in range(3)}, "w:gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    rows = read(str(tmp_path))
    assert rows[-1][2] == ""
    assert rows[-1][4]


def test_denied_and_unreachable_storage_raises_instead_of_giving_reasons(
    tmp_path, s3, monkeypatch
) -> None:
    """Otherwise an expired token would be recorded as a failure of every image."""
    from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

    from sdmad.errors import UserError
    from sdmad.storage import retries
    from sdmad.storage import s3 as s3_access

    base = f"{s3}/refused-{tmp_path.name}"
    storage.write_bytes(f"{base}/1.png", encoded())
    content = write_tar(tmp_path / "s.tar", {"2.png": encoded()}).read_bytes()
    storage.write_bytes(f"{base}/s.tar", content)
    planned = units(base)
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(s3_access, "_last_read", {})

    class Refusing:
        def __init__(self, error: Exception) -> None:
            self.error, self.asked = error, 0

        def get_object(self, **request: object) -> None:
            self.asked += 1
            raise self.error

        def list_objects_v2(self, **request: object) -> dict[str, object]:
            return {}

    for error, sentence, asked in (
        (ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject"), "access denied", 1),
        (NoCredentialsError(), "there are no credentials", 1),
        (ClientError({"Error": {"Code": "ExpiredToken"}}, "GetObject"), "have expired", 6),
        (EndpointConnectionError(endpoint_url="x"), "cannot be reached", 6),
    ):
        for unit in planned:
            client = Refusing(error)
            monkeypatch.setattr(s3_access, "client", lambda client=client: client)
            with pytest.raises(UserError, match=sentence):
                list(read_unit(unit))
            assert client.asked == asked, (
                "denied access raises at once, other errors after 6 requests"
            )


def test_an_object_that_changed_since_it_was_planned_is_refused(tmp_path, s3) -> None:
    from sdmad.storage.retries import ChangedError

    content = write_tar(tmp_path / "s.tar", {"2.png": encoded()}).read_bytes()
    for base in (str(tmp_path / "a"), f"{s3}/changed-{tmp_path.name}"):
        storage.write_bytes(f"{base}/1.png", encoded())
        storage.write_bytes(f"{base}/s.tar", content)
        planned = units(base)
        storage.write_bytes(f"{base}/1.png", encoded(7))
        storage.write_bytes(f"{base}/s.tar", content + bytes(512))
        for unit in planned:
            with pytest.raises(ChangedError, match="has changed since it was planned"):
                list(read_unit(unit))


def test_unusual_names_of_members_are_kept(tmp_path) -> None:
    names = [
        "../../etc/passwd",
        "/abs/x.png",
        "a" * 4000 + ".png",
        "ü/\u4e2d.png",
        "x\ny.png",
        "",
        "2",
    ]
    path = tmp_path / "a" / "s.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in [*names, "2"]:
            info = tarfile.TarInfo(name)
            info.size = len(encoded())
            tar.addfile(info, io.BytesIO(encoded()))
    content = path.read_bytes().replace("ü/".encode(), b"\xff\xfe/")
    path.write_bytes(fix_checksums(content))
    rows = read(str(path.parent))
    read_names = [row[2] for row in rows]
    assert read_names[:3] == names[:3]
    assert read_names[3] == "\udcff\udcfe/\u4e2d.png"
    assert read_names[4:] == ["x\ny.png", "", "2", "2"]
    assert all(row[3] == encoded() for row in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"], "nothing is extracted"


def test_an_archive_that_this_node_does_not_see_is_a_user_error(tmp_path) -> None:
    import shutil

    from sdmad.errors import UserError

    storage.write_bytes(str(tmp_path / "a" / "1.png"), encoded())
    planned = units(str(tmp_path / "a"))
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(UserError, match="every node must see the archive"):
        list(read_unit(planned[0]))


def test_a_shard_that_is_not_a_tar_has_one_reason(tmp_path) -> None:
    (tmp_path / "s.tar").write_bytes(b"garbage" * 1000)
    (row,) = read(str(tmp_path))
    assert row[2] == ""
    assert row[3] is None
    assert row[4]


def test_a_missing_object_is_a_member_with_a_reason(tmp_path) -> None:
    storage.write_bytes(str(tmp_path / "1.png"), encoded())
    planned = units(str(tmp_path))
    (tmp_path / "1.png").unlink()
    (member,) = read_unit(planned[0])
    assert member.content is None
    assert member.reason == "cannot be read: the object does not exist"


def test_s3_gives_the_same_members_as_a_local_folder(tmp_path, s3) -> None:
    base = f"{s3}/members-{tmp_path.name}"
    members = {f"{k}.png": encoded(k) for k in range(3)}
    content = write_tar(tmp_path / "s.tar", members).read_bytes()
    storage.write_bytes(f"{base}/s.tar", content)
    storage.write_bytes(f"{base}/loose/x.png", encoded(9))
    names = [(row[1], row[2]) for row in read(base)]
    assert sorted(names) == [("", "loose/x.png"), *(("s.tar", n) for n in members)]
    uris = [m.uri for u in units(base) for m in read_unit(u)]
    assert sorted(set(uris)) == [f"{base}/loose/x.png", f"{base}/s.tar"]


def test_the_id_of_a_unit_changes_with_its_content(tmp_path) -> None:
    write_tar(tmp_path / "s.tar", {"1.png": encoded()})
    (first,) = units(str(tmp_path))
    assert WorkUnit.from_json(first.to_json()) == first
    write_tar(tmp_path / "s.tar", {"1.png": encoded(), "2.png": encoded()})
    (second,) = units(str(tmp_path))
    assert first.id != second.id
    assert len(first.id) == 16


@pytest.mark.parametrize("where", ["local", "s3"])
def test_chosen_members_are_found_and_missing_ones_left_out(tmp_path, s3, where) -> None:
    base = str(tmp_path / "a") if where == "local" else f"{s3}/chosen-{tmp_path.name}"
    content = write_tar(tmp_path / "s.tar", {f"{k}.png": encoded(k) for k in range(9)}).read_bytes()
    storage.write_bytes(f"{base}/s.tar", content)
    storage.write_bytes(f"{base}/x.png", encoded(50))
    wanted = [
        ("s.tar", "7.png"),
        ("s.tar", "2.png"),
        ("", "x.png"),
        ("s.tar", "no.png"),
        ("t.tar", "1"),
    ]
    assert read_members(base, wanted) == {
        ("s.tar", "7.png"): encoded(7),
        ("s.tar", "2.png"): encoded(2),
        ("", "x.png"): encoded(50),
    }


def test_a_large_shard_is_not_downloaded_for_a_few_members(tmp_path, s3, bytes_asked) -> None:
    """Counts the bytes requested: headers and wanted members only."""
    big = {f"{k:03d}.bin": bytes(1_000_000) for k in range(40)} | {"wanted.png": encoded(5)}
    content = write_tar(tmp_path / "s.tar", big).read_bytes()
    base = f"{s3}/large-{tmp_path.name}"
    storage.write_bytes(f"{base}/s.tar", content)
    found = read_members(base, [("s.tar", "wanted.png")])
    assert found["s.tar", "wanted.png"] == encoded(5)
    assert sum(bytes_asked) < len(content) / 2
