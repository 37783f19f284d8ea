"""Archives given as a prefix, a single object or a manifest."""

import pandas as pd
import pytest

from sdmad import storage
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members, read_unit
from sdmad.archive.units import cut_units
from sdmad.errors import UserError
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
