"""The local S3 server of the demo, the tests and the benchmarks."""

import pytest
from moto.s3.models import FakeKey

from sdmad import storage
from sdmad.demo import local_s3
from sdmad.storage import s3 as access


def test_reading_does_not_copy_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", "8")
    monkeypatch.setattr(FakeKey, "value", FakeKey.value)
    local_s3.hold_objects_once()
    key = FakeKey("shard.tar", b"longer than eight", account_id="1", region_name="us-east-1")
    assert key.value == b"longer than eight"
    assert key.value is key.value


def test_ranges_of_large_objects_have_the_right_bytes(s3: str) -> None:
    content = bytes(range(256)) * 40_000
    storage.write_bytes(f"{s3}/ranges/x", content)
    for start, stop in ((0, 7), (9_000_001, 9_400_000), (0, None)):
        assert access.read(f"{s3}/ranges/x", start=start, stop=stop) == content[start:stop]
