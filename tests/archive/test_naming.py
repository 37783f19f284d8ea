"""Names and URIs that come back, whatever characters they contain."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from sdmad.archive.naming import (
    comparable,
    frame_name,
    image_uri,
    is_sidecar,
    shard_kind,
    split_frame,
    split_uri,
)

NAMES = some.text(
    some.one_of(
        some.sampled_from("#%&=/?.\\ \n\t\"'+[]{}*$~:;üé日\u0301\u00c5\u212b\ufeffxframe123"),
        some.characters(exclude_categories=["Cs"]),
    ),
    max_size=24,
)
FRAMES = some.one_of(some.none(), some.integers(1, 50_000))


@given(NAMES, NAMES, FRAMES, some.sampled_from(["tar", "TAR.GZ", "zip", "parquet", "tar.zst"]))
@example("batch#1", "i #frame=2.png", None, "tar")
@example("s", "frame=3", None, "tar")
@example("s", "x&frame=3", None, "zip")
@example("a#b", "", None, "tar")
@example("a", "", 2, "tar")
def test_a_member_of_a_shard_comes_back_from_its_uri(shard, member, frame, suffix) -> None:
    shard = f"s3://bucket/{shard}.{suffix}"
    assert split_uri(image_uri(shard, member, frame)) == (shard, frame_name(member, frame))


@given(NAMES.filter(lambda name: not shard_kind(name)), FRAMES)
@example("x.tar#y.png", None)
@example("x#frame=2", None)
@example("x#frame=2", 3)
@example("ends with#", None)
@example("per%20cent.png", None)
def test_a_loose_image_comes_back_from_its_uri(name, frame) -> None:
    uri = f"s3://bucket/{name}"
    assert split_uri(image_uri(uri, None, frame)) == (frame_name(uri, frame), None)


def test_uris_stay_readable() -> None:
    assert image_uri("s3://b/s.tar", "a b/c.dcm", 3) == "s3://b/s.tar#a%20b/c.dcm&frame=3"
    assert image_uri("s3://b/scan.dcm", None, 3) == "s3://b/scan.dcm#frame=3"
    assert image_uri("s3://b/x y.png", None) == "s3://b/x y.png"
    assert image_uri("s3://b/ha#sh.png", None) == "s3://b/ha#sh.png#"
    assert split_uri("s3://b/ha#sh.png") == ("s3://b/ha#sh.png", None), "written by hand"
    assert split_uri("s3://b/s.tar#a b.png") == ("s3://b/s.tar", "a b.png"), "written by hand"


def test_names_of_shards() -> None:
    tars = "x.tar X.TAR x.tar.gz x.tgz x.tar.bz2 x.tbz2 x.tar.xz x.txz x.tar.zst x.tzst"
    assert {shard_kind(name) for name in tars.split()} == {"tar"}
    assert shard_kind("a.b.ZIP") == "zip"
    assert shard_kind("x.parquet") == "parquet"
    for name in ("x.gz", "x.tar.png", "tar", "zip", "x.zip/", "x.tar\n"):
        assert shard_kind(name) is None


def test_a_folder_that_cannot_be_read_is_no_sidecar() -> None:
    assert is_sidecar("a/run.log")
    assert not is_sidecar("a/run.log/")


def test_names_are_compared_without_dot_slash_and_in_one_normal_form() -> None:
    assert comparable("./x.png") == comparable("x.png") == comparable(".//./x.png")
    assert comparable("U\u0308bung.png") == comparable("\u00dcbung.png")
    assert comparable("X.png") != comparable("x.png")


@pytest.mark.parametrize("name", ["x.dcm", "x#frame=0", "x#frame=", "x#frame=3y"])
def test_other_names_are_not_split(name) -> None:
    assert split_frame(name) == (name, None)
