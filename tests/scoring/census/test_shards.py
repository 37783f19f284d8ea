import boto3
import pytest

from sdmad import storage
from sdmad.scoring.census.shards import count_loose, count_shard
from tests.helpers import encoded


@pytest.fixture(scope="module")
def archived(s3) -> dict[str, storage.StoredObject]:
    """Objects in an archive tier, and another one that can be read, on a real S3 server."""
    client = boto3.client("s3")
    for name, tier in (("a.png", "GLACIER"), ("a.tar", "GLACIER"), ("b.png", "STANDARD")):
        place = {"Bucket": "test", "Key": f"census/{name}", "StorageClass": tier}
        client.put_object(Body=encoded(3), **place)
    return {e.uri.rsplit("/", 1)[1]: e for e in storage.list_objects(f"{s3}/census")}


def test_a_loose_object_that_storage_refuses_is_one_image_of_unknown_content(archived) -> None:
    found = count_loose(archived["a.png"], "a.png", "", slice_axis="axial")
    assert found.images == [("a.png", None)]
    assert count_loose(archived["b.png"], "b.png", "", slice_axis="axial").images == [
        ("b.png", {1})
    ]


def test_a_shard_that_storage_refuses_is_broken(archived) -> None:
    assert count_shard(archived["a.tar"], "tar", slice_axis="axial").broken


def test_a_manifest_with_a_wrong_size_does_not_end_the_count(archived) -> None:
    entry = archived["b.png"]
    wrong = storage.StoredObject(entry.uri, entry.size + 1, entry.etag)
    (name, _), *others = count_loose(wrong, "b.png", "", slice_axis="axial").images
    assert (name, others) == ("b.png", [])
