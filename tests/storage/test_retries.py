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


ARCHIVED = (403, "InvalidObjectState", "The operation is not valid for the object's storage class")
DENIED = (403, "AccessDenied", "Access Denied")
NO_KEY = (403, "AccessDenied", "not authorized to perform: kms:Decrypt on this resource")


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (ARCHIVED, "it is in an archive tier (InvalidObjectState); restore the object"),
        ((400, "KMS.DisabledException", "disabled"), "its encryption key cannot be used (KMS.Dis"),
        ((400, "KMS.NotFoundException", "gone"), "its encryption key cannot be used (KMS.NotFou"),
        ((400, "KMS.KMSInvalidStateException", "x"), "its encryption key cannot be used (KMS.KMSI"),
        (NO_KEY, "its encryption key cannot be used (AccessDenied)"),
        ((400, "InvalidRequest", "stored using SSE-C"), "storage refuses this object (InvalidReq"),
        ((405, "MethodNotAllowed", "delete marker"), "storage refuses this object (MethodNotAll"),
        (DENIED, "access denied (AccessDenied)"),
        ((451, "Unavailable", "unknown code"), "storage refuses this object (Unavailable)"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_refused_object_has_a_reason_and_the_others_are_read(
    front, s3, tmp_path, refusal, reason
) -> None:
    front.share = 0.0
    folder = f"refused-{tmp_path.name}"
    base = f"{s3}/{folder}"
    shard = write_tar(tmp_path / "s.tar", {"1.png": encoded(1)}).read_bytes()
    for name, content in (
        *((f"{name}.png", encoded(9)) for name in "abc"),
        *((f"{name}.tar", shard) for name in "st"),
    ):
        storage.write_bytes(f"{base}/{name}", content)
    front.refused = {f"{folder}/{name}": refusal for name in ("b.png", "s.tar")}
    found = {}
    for unit in cut_units(base, list_archive(base)):
        found |= {(m.archive, m.name): (m.content, m.reason) for m in read_unit(unit)}
    assert found["", "a.png"] == found["", "c.png"] == (encoded(9), "")
    assert found["t.tar", "1.png"] == (encoded(1), "")
    assert found["", "b.png"][0] is None
    assert found["", "b.png"][1].startswith(f"cannot be read: {reason}")
    assert found["s.tar", ""][1].startswith(f"the shard cannot be read: {reason}")
    assert len(found) == 5


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDenied", "access denied .AccessDenied.; check the credentials and the bucket"),
        ("InvalidAccessKeyId", "access denied .InvalidAccessKeyId.; check the credentials"),
        ("SignatureDoesNotMatch", "access denied .SignatureDoesNotMatch."),
        ("InvalidToken", "access denied .InvalidToken."),
        ("AllAccessDisabled", "access denied .AllAccessDisabled."),
        ("RequestTimeTooSkewed", "access denied .RequestTimeTooSkewed.*clock"),
    ],
)
def test_a_refusal_of_the_bucket_or_the_credentials_ends_the_run(
    front, s3, tmp_path, code, message
) -> None:
    """Also when objects were read before: all may be refused later in a run."""
    front.share = 0.0
    base = f"{s3}/refused-{tmp_path.name}"
    for name in "abc":
        storage.write_bytes(f"{base}/{name}.png", encoded())
    (unit,) = cut_units(base, list_archive(base))
    assert all(member.content for member in read_unit(unit))
    front.refused = {"": (403, code, code)}
    begin = front.requests
    with pytest.raises(UserError, match=message) as raised:
        list(read_unit(unit))
    assert not isinstance(raised.value, storage.ObjectError)
    assert front.requests - begin < 20, "a refusal is not retried"


def test_a_refused_parquet_file_or_zip_is_one_failure(front, s3, tmp_path) -> None:
    """They are opened while the archive is listed."""
    front.share = 0.0
    folder = f"refused-{tmp_path.name}"
    for name in ("a.parquet", "b.zip", "c.png"):
        storage.write_bytes(f"{s3}/{folder}/{name}", encoded())
    front.refused = {f"{folder}/{name}": ARCHIVED for name in ("a.parquet", "b.zip")}
    base = f"{s3}/{folder}"
    members = [m for unit in cut_units(base, list_archive(base)) for m in read_unit(unit)]
    failed = {m.archive: m.reason for m in members if m.content is None}
    assert failed.keys() == {"a.parquet", "b.zip"}
    assert all("it is in an archive tier" in reason for reason in failed.values())


def test_a_refused_object_of_a_manifest_is_one_failure(front, s3, tmp_path) -> None:
    """Without sizes in the manifest, storage is asked for each object first."""
    front.share = 0.0
    folder = f"refused-{tmp_path.name}"
    base = f"{s3}/{folder}/list.csv"
    for name in "ab":
        storage.write_bytes(f"{s3}/{folder}/{name}.png", encoded())
    storage.write_bytes(base, b"uri\na.png\nb.png\n")
    front.refused = {f"{folder}/a.png": DENIED}
    members = [m for unit in cut_units(base, list_archive(base)) for m in read_unit(unit)]
    assert [(m.name, bool(m.content)) for m in members] == [("a.png", False), ("b.png", True)]
    assert members[0].reason == "cannot be read: access denied (AccessDenied)"
