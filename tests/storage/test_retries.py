"""Reads, listings and writes are correct although storage fails a fifth of the requests."""

import os
from collections.abc import Iterator

import pytest

from sdmad import storage
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_unit
from sdmad.archive.units import cut_units
from sdmad.errors import UserError
from sdmad.storage import files
from sdmad.storage import s3 as s3_access
from tests.faulty_s3 import FaultyS3, faulty_s3
from tests.helpers import encoded, write_tar


def forget_clients() -> None:
    s3_access.refresh()
    files._refresh()


@pytest.fixture
def front(s3, monkeypatch) -> Iterator[FaultyS3]:
    with faulty_s3(os.environ["AWS_ENDPOINT_URL"], share=0.2, seed=1) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.url)
        forget_clients()
        yield front
        monkeypatch.undo()
        forget_clients()


def test_reads_listings_and_writes_survive_failed_requests(front, s3, tmp_path) -> None:
    base = f"{s3}/faults-{tmp_path.name}"
    members = {f"{k}.png": os.urandom(200_000) for k in range(30)}
    shard = write_tar(tmp_path / "s.tar", members).read_bytes()
    storage.write_bytes(f"{base}/s.tar", shard)
    for k in range(15):
        storage.write_bytes(f"{base}/loose/{k:02d}.png", encoded(k))
    listed = [storage.relative(e.uri, base) for e in list_archive(base)]
    assert listed == [*(f"loose/{k:02d}.png" for k in range(15)), "s.tar"]
    found = {}
    for unit in cut_units(base, list_archive(base), group=5):
        found |= {(m.archive, m.name): (m.content, m.reason) for m in read_unit(unit)}
    expected = {("s.tar", name): (content, "") for name, content in members.items()}
    expected |= {("", f"loose/{k:02d}.png"): (encoded(k), "") for k in range(15)}
    assert found == expected
    assert sum(front.faults.values()) >= 5, front.faults


def test_a_listing_continues_after_a_failed_page(front, s3, monkeypatch) -> None:
    base = f"{s3}/pages"
    front.share = 0.0
    for k in range(18):
        storage.write_bytes(f"{base}/{k:02d}.png", b"x")
    original = s3_access.client

    class SmallPages:
        def list_objects_v2(self, **request: object) -> object:
            return original().list_objects_v2(**{"MaxKeys": 2} | request)

    monkeypatch.setattr(s3_access, "client", SmallPages)
    front.share = 0.4
    listed = [storage.relative(e.uri, base) for e in storage.list_objects(base)]
    assert listed == [f"{k:02d}.png" for k in range(18)]
    assert sum(front.faults.values()) >= 1


def test_a_stream_does_not_restart_after_an_error(front, s3, tmp_path, bytes_asked) -> None:
    content = os.urandom(3 << 19)
    storage.write_bytes(f"{s3}/stream-{tmp_path.name}", content)
    bytes_asked.clear()
    with storage.open_read(f"{s3}/stream-{tmp_path.name}", 64 << 10) as stream:
        read = b"".join(iter(lambda: stream.read(64 << 10), b""))
    assert read == content
    assert sum(bytes_asked) == len(content), "every byte is delivered once"


def test_permanent_errors_are_raised_although_other_requests_fail(front, s3) -> None:
    with pytest.raises(UserError, match="bucket 'no-such-bucket' does not exist"):
        list(storage.list_objects("s3://no-such-bucket/x"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{s3}/nothing-here")
    with pytest.raises(UserError, match="bucket 'no-such-bucket' does not exist"):
        storage.write_bytes("s3://no-such-bucket/x", b"x")
