"""Archives given as a prefix, a single object or a manifest."""

import pandas as pd
import pytest

from sdmad import storage
from sdmad.archive import members
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members, read_unit
from sdmad.archive.units import cut_units
from sdmad.errors import UserError
from sdmad.storage import StoredObject
from tests.helpers import encoded, write_tar


def read(archive: str) -> list[tuple[str, str, str]]:
    units = cut_units(archive, list_archive(archive))
    return [(m.archive, m.name, m.reason) for u in units for m in read_unit(u)]


@pytest.fixture(params=["local", "s3"])
def base(request, tmp_path, s3) -> str:
    base = str(tmp_path / "b") if request.param == "local" else f"{s3}/listing-{tmp_path.name}"
    shard = write_tar(tmp_path / "s.tar", {"1.png": encoded(1)}).read_bytes()
    storage.write_bytes(f"{base}/set/s.tar", shard)
    for name in ("set/2.png", "set/3.png", "other/4.png"):
        storage.write_bytes(f"{base}/{name}", encoded(int(name[-5])))
    return base


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_can_name_images_and_shards_anywhere(base, suffix, tmp_path) -> None:
    uris = ["s.tar", "2.png", f"{base}/other/4.png", "2.png", "missing.png"]
    table = pd.DataFrame({"uri": uris, "note": "x"})
    table.to_csv(tmp_path / "m.csv", index=False)
    table.to_parquet(tmp_path / "m.parquet")
    archive = f"{base}/set/list.{suffix}"
    storage.write_bytes(archive, (tmp_path / f"m.{suffix}").read_bytes())
    other = f"{base}/other/4.png"
    assert read(archive) == [
        ("s.tar", "1.png", ""),
        ("", "2.png", ""),
        ("", other, ""),
        ("", "missing.png", "cannot be read: the object does not exist"),
    ]
    wanted = [("s.tar", "1.png"), ("", "2.png"), ("", other)]
    assert set(read_members(archive, wanted)) == set(wanted)


def test_sizes_and_etags_of_an_inventory_are_used(tmp_path, s3) -> None:
    storage.write_bytes(f"{s3}/inventory/1.png", encoded())
    (listed,) = storage.list_objects(f"{s3}/inventory/1.png")
    table = pd.DataFrame({"uri": ["1.png"], "size": [listed.size], "etag": [f'"{listed.etag}"']})
    storage.write_bytes(f"{s3}/inventory/m.csv", table.to_csv(index=False).encode())
    assert list(list_archive(f"{s3}/inventory/m.csv")) == [listed]


def test_a_single_shard_is_an_archive(base) -> None:
    assert read(f"{base}/set/s.tar") == [("s.tar", "1.png", "")]
    assert read_members(f"{base}/set/s.tar", [("s.tar", "1.png")])


def test_a_csv_without_uris_is_a_user_error(tmp_path) -> None:
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has no column 'uri'; it has a, b"):
        list(list_archive(str(tmp_path / "m.csv")))


def manifest(uri: str, text: str) -> str:
    storage.write_bytes(uri, text.encode())
    return uri


@pytest.fixture
def inventory(s3, tmp_path) -> tuple[str, StoredObject, StoredObject]:
    """A prefix with a loose image and a shard, and their entries."""
    base = f"{s3}/inventory-{tmp_path.name}"
    storage.write_bytes(f"{base}/1.png", encoded())
    storage.write_bytes(
        f"{base}/s.tar", write_tar(tmp_path / "s.tar", {"2.png": b"x"}).read_bytes()
    )
    return base, storage.describe(f"{base}/1.png"), storage.describe(f"{base}/s.tar")


@pytest.mark.parametrize("size", ["{0}", " {0} ", "{0}.0", ""])
@pytest.mark.parametrize("etag", ['"{0}"', "{0}", ""])
def test_sizes_and_etags_of_a_manifest_are_read_or_asked_for(inventory, size, etag) -> None:
    base, *entries = inventory
    rows = [f"{storage.name(e.uri)},{size.format(e.size)},{etag.format(e.etag)}\n" for e in entries]
    uri = manifest(f"{base}/m.csv", "uri, size,etag\n" + "".join(rows))
    assert list(list_archive(uri)) == entries


@pytest.mark.parametrize("size", ["10,240", "10 KB", "1e4", "-5", "10240.5", "0x10", "many"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_size_that_is_no_number_is_refused_with_its_row(
    inventory, size, suffix, tmp_path
) -> None:
    base, entry, _ = inventory
    table = pd.DataFrame(
        {"uri": ["1.png", "s.tar"], "size": ["5", size], "etag": [entry.etag, "x"]}
    )
    path = tmp_path / f"m.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    storage.write_bytes(f"{base}/m.{suffix}", path.read_bytes())
    with pytest.raises(UserError, match=f"row 3: the size is '{size}'; write the number of bytes"):
        list(list_archive(f"{base}/m.{suffix}"))


def test_a_wrong_size_costs_no_image(inventory) -> None:
    """The size of a shard is asked for; that of a loose image is not used to read it."""
    base, loose, shard = inventory
    for size in (0, 1, 10**12):
        uri = manifest(
            f"{base}/m.csv",
            f"uri,size,etag\n1.png,{size},{loose.etag}\ns.tar,{size},{shard.etag}\n",
        )
        assert sorted(read(uri)) == [("", "1.png", ""), ("s.tar", "2.png", "")]


def test_an_object_that_is_larger_than_the_manifest_says_is_not_read(
    inventory, monkeypatch
) -> None:
    base, loose, _ = inventory
    monkeypatch.setattr(members, "LARGEST_MEMBER_BYTES", loose.size - 1)
    uri = manifest(f"{base}/m.csv", f"uri,size,etag\n1.png,1,{loose.etag}\n")
    assert read(uri) == [("", "1.png", f"too large: {loose.size} bytes")]


def test_a_shard_that_changed_since_the_manifest_is_refused(inventory) -> None:
    base, _, shard = inventory
    uri = manifest(f"{base}/m.csv", f"uri,size,etag\ns.tar,{shard.size},0123456789abcdef\n")
    with pytest.raises(UserError, match=r"s\.tar has changed since the manifest .* was written"):
        list(list_archive(uri))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uri,size\n1.png,5\n2.png\n", "row 3: it has 1 fields, and the header has 2"),
        ("uri,size\n1.png,5,\n", "row 2: it has 3 fields, and the header has 2"),
        ("uri,size\n1.png,10,240\n", "row 2: it has 3 fields"),
        ('uri,size\n1.png,5\n"",5\n', "row 3: the uri is empty"),
        ("uri\nhttp://host/1.png\n", "row 2: .*the scheme http:// is not supported"),
        ("uri;size\n1.png;5\n", "has no column 'uri'; it has uri;size"),
        ("", "has no column 'uri'"),
        ("uri\n\xff", "cannot be read"),
        ('uri\n"1.png\n', "cannot be read"),
    ],
)
def test_a_malformed_manifest_is_refused_with_its_row(tmp_path, text, message) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        list(list_archive(str(path)))


def test_relative_uris_and_blank_lines(tmp_path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        storage.write_bytes(str(tmp_path / name), encoded())
    text = f"\ufeffuri\r\n./1.png\r\n\r\n{tmp_path}/a//2.png\r\nfile://{tmp_path}/b/3.png\r\n"
    uri = manifest(str(tmp_path / "a" / "m.csv"), text)
    rows = read(uri)
    assert rows == [("", "1.png", ""), ("", "2.png", ""), ("", f"{tmp_path}/b/3.png", "")]
    names = [("", name) for _, name, _ in rows]
    assert read_members(uri, names) == dict.fromkeys(names, encoded())


def test_a_manifest_in_s3_may_name_local_files(s3, tmp_path) -> None:
    storage.write_bytes(str(tmp_path / "1.png"), encoded())
    uri = manifest(f"{s3}/mixed-{tmp_path.name}/m.csv", f"uri\n{tmp_path}/1.png\n")
    name = ("", f"file://{tmp_path}/1.png")
    assert read(uri) == [(*name, "")]
    assert read_members(uri, [name]) == {name: encoded()}


def test_a_parquet_file_with_images_is_a_shard_even_if_it_has_uris(tmp_path) -> None:
    table = pd.DataFrame({"uri": ["http://host/1.png"], "image": [encoded()], "path": ["1.png"]})
    table.to_parquet(tmp_path / "s.parquet")
    assert read(str(tmp_path / "s.parquet")) == [("s.parquet", "1.png", "")]
