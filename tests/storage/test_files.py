"""Storage behaves the same on a local folder and on S3."""

import pytest

from sdmad import storage
from sdmad.errors import UserError


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path, s3) -> str:
    return str(tmp_path) if request.param == "local" else f"{s3}/storage-{tmp_path.name}"


def test_written_objects_can_be_read_listed_and_measured(root) -> None:
    storage.write_bytes(f"{root}/a/b.bin", b"0123456789")
    storage.write_bytes(f"{root}/a.bin", b"x")
    assert storage.read_bytes(f"{root}/a/b.bin") == b"0123456789"
    assert storage.size(f"{root}/a/b.bin") == 10
    assert storage.exists(f"{root}/a.bin")
    assert not storage.exists(f"{root}/c")
    listed = {storage.relative(e.uri, root): e.size for e in storage.list_objects(root)}
    assert listed == {"a/b.bin": 10, "a.bin": 1}


def test_a_prefix_matches_whole_path_parts_only(root) -> None:
    storage.write_bytes(f"{root}/set/1", b"1")
    storage.write_bytes(f"{root}/set2/1", b"1")
    assert [e.uri for e in storage.list_objects(f"{root}/set")] == [f"{root}/set/1"]


def test_changed_content_has_another_etag(root) -> None:
    storage.write_bytes(f"{root}/x", b"1")
    first = next(storage.list_objects(f"{root}/x")).etag
    storage.write_bytes(f"{root}/x", b"2")
    assert next(storage.list_objects(f"{root}/x")).etag != first


def test_a_stream_can_seek(root) -> None:
    storage.write_bytes(f"{root}/big", bytes(range(256)) * 4096)
    with storage.open_read(f"{root}/big", 4096) as stream:
        stream.seek(1000)
        assert stream.read(3) == bytes([232, 233, 234])


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path) -> None:
    target = tmp_path / "x"
    storage.write_bytes(str(target), b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(str(target), "not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_missing_bucket_is_a_user_error(s3) -> None:
    with pytest.raises(UserError, match="bucket 'no-such-bucket' does not exist"):
        list(storage.list_objects("s3://no-such-bucket/x"))
    with pytest.raises(UserError, match="bucket 'no-such-bucket' does not exist"):
        storage.check_writable("s3://no-such-bucket/x")


def test_a_check_of_an_output_creates_nothing(tmp_path) -> None:
    storage.check_writable(str(tmp_path / "new" / "folder"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name, reason in (("file", "Not a directory"), ("broken", "No such file")):
        for uri in (tmp_path / name, tmp_path / name / "below"):
            with pytest.raises(UserError, match=f"cannot write to {uri}: {reason}"):
                storage.check_writable(str(uri))


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(UserError, match="gs:// is not supported"):
        storage.resolve("gs://bucket/x")


def test_replace_writes_only_if_the_object_is_unchanged(root) -> None:
    uri = f"{root}/plan"
    assert storage.replace(uri, b"first", None)
    assert not storage.replace(uri, b"other", None), "an object exists already"
    before = storage.describe(uri)
    assert storage.replace(uri, b"second", before)
    assert not storage.replace(uri, b"third", before), "the object has changed since"
    assert storage.read_bytes(uri) == b"second"


def test_only_the_prefix_itself_is_listed_page_by_page(s3, monkeypatch, tmp_path) -> None:
    """`chest` must not page through `chest-raw/`, whose keys come before those of `chest/`."""
    from sdmad.storage import s3 as s3_access

    base = f"{s3}/{tmp_path.name}/chest"
    for name in ("-raw/1.png", "-raw/2.png", "/a.png", "//b.png", "/c/d.png", "s/e.png"):
        storage.write_bytes(base + name, b"12")
    s3_access.client().put_object(Bucket="test", Key=f"{tmp_path.name}/chest/c/", Body=b"")
    original, keys = s3_access.client(), []

    class Counting:
        def list_objects_v2(self, **request: object) -> dict:
            page = original.list_objects_v2(**{"MaxKeys": 1} | request)
            keys.extend(entry["Key"] for entry in page.get("Contents", []))
            return page

    monkeypatch.setattr(s3_access, "client", Counting)
    listed = [e.uri.removeprefix(base) for e in storage.list_objects(base)]
    assert listed == ["//b.png", "/a.png", "/c/d.png"]
    assert len([key for key in keys if "chest-raw" in key]) <= 1
    assert [e.uri.removeprefix(base) for e in storage.list_objects(f"{base}/a.png")] == ["/a.png"]


def test_names_and_uris_are_inverse(tmp_path) -> None:
    for base, uri, name in (
        ("s3://b/p", "s3://b/p/x", "x"),
        ("s3://b/p", "s3://b/p//x", "/x"),
        ("s3://b", "s3://b//x", "/x"),
        ("s3://b/p", "s3://other/x", "s3://other/x"),
        ("s3://b/p", "/data/x", "file:///data/x"),
        ("/data/a", "/data/a/x", "x"),
        ("/data/a", "/elsewhere/x", "/elsewhere/x"),
        ("/data/a", "s3://b/x", "s3://b/x"),
        ("s3://b/p", "s3://b/p/http://h/x", "http://h/x"),
    ):
        assert storage.relative(uri, base) == name
        assert storage.located(name, base, base_is_object=False) == uri


def test_a_name_with_a_zero_byte_does_not_exist(tmp_path) -> None:
    assert not storage.exists(f"{tmp_path}/a\0b.png")
