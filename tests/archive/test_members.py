"""Reading work units from local files and from S3."""

import errno
import io
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdmad import storage
from sdmad.archive import naming
from sdmad.archive.listing import list_archive
from sdmad.archive.members import missing_members, read_members, read_unit
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
    assert read_names[3] == "\\xff\\xfe/\u4e2d.png"
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


@pytest.mark.parametrize("where", ["local", "s3"])
def test_odd_names_come_back_from_uris_and_are_found(tmp_path, s3, where) -> None:
    base = str(tmp_path / "a") if where == "local" else f"{s3}/odd names {tmp_path.name}"
    names = ["a b.png", "p%20q+r.png", "#.png", "x#frame=2", "x.tar#y.png", "ü.png", "u\u0308.png"]
    names += ["q?m&n=1.png", "[br]{a}*.png", "back\\slash.png", "'\".png"]
    odd_shards = ["batch#1.tar", "50%25.tar", "d#/s.tar", "s.tar"]
    content = write_tar(tmp_path / "t", dict.fromkeys(names, encoded())).read_bytes()
    for shard in odd_shards:
        storage.write_bytes(f"{base}/{shard}", content)
    for name in names:
        storage.write_bytes(f"{base}/loose/{name}", encoded())
    if where == "s3":
        storage.write_bytes(f"{base}//x.png", encoded())
        storage.write_bytes(f"{base}/d//y.tar", content)
    found = [m for u in units(base) for m in read_unit(u)]
    assert len(found) == len(names) * 5 + (len(names) + 1) * (where == "s3")
    for member in found:
        uri = naming.image_uri(member.uri, member.name if member.archive else None)
        container, name = naming.split_uri(uri)
        assert container == member.uri
        assert name == (member.name if member.archive else None)
    wanted = [(m.archive, m.name) for m in found]
    assert read_members(base, wanted) == dict.fromkeys(wanted, encoded())


@pytest.mark.parametrize("where", ["local", "s3"])
def test_names_match_without_dot_slash_and_in_any_normal_form(tmp_path, s3, where) -> None:
    base = str(tmp_path / "a") if where == "local" else f"{s3}/near-{tmp_path.name}"
    stored = {"./x.png": encoded(1), "u\u0308.png": encoded(2), "y.png": encoded(3)}
    content = write_tar(tmp_path / "t", stored).read_bytes()
    storage.write_bytes(f"{base}/\u00fc.tar", content)
    storage.write_bytes(f"{base}/u\u0308.png", encoded(4))
    expected = {
        ("u\u0308.tar", "x.png"): encoded(1),
        ("./\u00fc.tar", "\u00fc.png"): encoded(2),
        ("\u00fc.tar", "./y.png"): encoded(3),
        ("", "./\u00fc.png"): encoded(4),
    }
    assert read_members(base, [*expected, ("", "z.png"), ("\u00fc.tar", "X.png")]) == expected


def test_local_files_that_cannot_be_read_are_members_with_a_reason(tmp_path) -> None:
    """A link to itself stands for a file without read permission, because root may read those."""
    for name in ("a.png", "loop.png", "loop.tar", "loop.zip", "loop.parquet"):
        (tmp_path / name).symlink_to(name)
    (tmp_path / "broken.png").symlink_to("none.png")
    (tmp_path / "broken.tar").symlink_to("none.tar")
    assert sorted(
        (archive, name, reason) for _, archive, name, _, reason in read(str(tmp_path))
    ) == [
        ("", "a.png", "cannot be read: the link leads back to itself"),
        ("", "broken.png", "cannot be read: the object does not exist"),
        ("", "loop.png", "cannot be read: the link leads back to itself"),
        ("broken.tar", "", "the shard cannot be read: the object does not exist"),
        ("loop.parquet", "", "the shard cannot be read: the link leads back to itself"),
        ("loop.tar", "", "the shard cannot be read: the link leads back to itself"),
        ("loop.zip", "", "the shard cannot be read: the link leads back to itself"),
    ]


def test_an_input_error_of_the_disk_concerns_one_object(tmp_path, monkeypatch) -> None:
    from sdmad.storage import files, retries

    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.0)
    write_tar(tmp_path / "s.tar", {"1.png": encoded()})
    storage.write_bytes(str(tmp_path / "2.png"), encoded())
    planned = units(str(tmp_path))

    def failing(uri: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "local_path", failing)
    reasons = [m.reason for u in planned for m in read_unit(u)]
    assert reasons == [
        "the shard cannot be read: input/output error",
        "cannot be read: input/output error",
    ]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_missing_members_are_told_from_those_that_are_spelled_otherwise(
    tmp_path, s3, where
) -> None:
    base = str(tmp_path / "a") if where == "local" else f"{s3}/missing-{tmp_path.name}"
    composed, decomposed = "M\u00fc.png", "Mu\u0308.png"
    members = {"./1.png": encoded(), decomposed: encoded(), "3.png": encoded()}
    write_tar(tmp_path / "s.tar", members)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    table = {"member": list(members), "image": list(members.values())}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    for shard in ("s.tar", "s.zip", "s.parquet"):
        storage.write_bytes(f"{base}/{shard}", (tmp_path / shard).read_bytes())
        wanted = ["1.png", composed, "2.png"]
        assert missing_members(base, f"./{shard}", wanted) == (["2.png"], ["3.png"])
    storage.write_bytes(f"{base}/{decomposed}", encoded())
    assert missing_members(base, "", [composed, f"./{composed}", "2.png"]) == (["2.png"], [])
    assert missing_members(base, "t.tar", ["1.png"]) == (["1.png"], [])
