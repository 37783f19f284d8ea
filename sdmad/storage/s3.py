"""S3 through boto3: listings, and reads and writes that fail if an object has changed."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from sdmad.errors import UserError
from sdmad.storage.objects import StoredObject
from sdmad.storage.retries import (
    ADAPTIVE,
    DENIED,
    MISSING,
    STORAGE_ERRORS,
    ChangedError,
    ObjectError,
    RefusedError,
    check_size,
    error_code,
    patiently,
)

READ_SECONDS = 30
_SETTINGS = Config(
    retries=ADAPTIVE,
    connect_timeout=10,
    read_timeout=READ_SECONDS,
    max_pool_connections=32,
)
_creating = threading.Lock()
# By bucket, the key of the object that this process has read last.
_last_read: dict[str, str] = {}
NEIGHBOURS = 4


@cache
def _made_client() -> Any:
    return boto3.Session().client("s3", config=_SETTINGS)


def client() -> Any:
    """The one client of this process. Creating a client is not thread-safe; using it is."""
    with _creating:
        return _made_client()


def refresh() -> None:
    """Read the credentials again before the next request."""
    _made_client.cache_clear()


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def list_objects(uri: str) -> Iterator[StoredObject]:
    """Every object at or below a prefix, sorted by key and fetched page by page.

    Keys that only begin with the same text (`chest-raw/` for `chest`) are not fetched. A failed
    page is requested again, from the last key received.
    """
    bucket, key = split(uri)
    key = key.rstrip("/")
    if key:
        # The object of this very key comes first among the keys that begin with it.
        page = _page(uri, {"Bucket": bucket, "Prefix": key, "MaxKeys": 1})
        yield from (entry for entry in _listed(bucket, page) if entry.uri == f"s3://{bucket}/{key}")
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    while True:
        page = _page(uri, request)
        yield from _listed(bucket, page)
        if not page.get("IsTruncated"):
            return
        request["StartAfter"] = page["Contents"][-1]["Key"]


def _page(uri: str, request: dict[str, Any]) -> dict[str, Any]:
    return patiently(lambda: client().list_objects_v2(**request), uri, refresh)


def _listed(bucket: str, page: dict[str, Any]) -> Iterator[StoredObject]:
    """The objects of a page, without the empty ones that stand for folders."""
    for entry in page.get("Contents", []):
        if entry["Size"] or not entry["Key"].endswith("/"):
            etag = entry["ETag"].strip('"')
            yield StoredObject(f"s3://{bucket}/{entry['Key']}", entry["Size"], etag)


def check_bucket(uri: str) -> None:
    """Raise `UserError` if the bucket does not exist or access is denied."""
    bucket, _ = split(uri)
    try:
        patiently(lambda: client().head_bucket(Bucket=bucket), f"s3://{bucket}", refresh)
    except FileNotFoundError:
        raise UserError(
            f"{uri}: the bucket {bucket!r} does not exist; check its name and AWS_ENDPOINT_URL"
        ) from None


def describe(uri: str) -> StoredObject:
    """Size and ETag of an object. Raises `FileNotFoundError` if it does not exist.

    Raises `ObjectError` if only this object is refused.
    """
    bucket, key = split(uri)
    with _refusals(uri):
        head = patiently(lambda: client().head_object(Bucket=bucket, Key=key), uri, refresh)
    return StoredObject(uri, head["ContentLength"], head["ETag"].strip('"'))


def read(
    uri: str, etag: str = "", start: int = 0, stop: int | None = None, most: int | None = None
) -> bytes:
    """Bytes `start` (included) to `stop` (excluded) of an object, in one request.

    Raises `ChangedError` if its ETag is not `etag`, `FileNotFoundError` if it does not exist, and
    `ObjectError` if only this object is refused, or the answer has more than `most` bytes.
    """
    bucket, key = split(uri)
    request = {"Bucket": bucket, "Key": key}
    if etag:
        request["IfMatch"] = f'"{etag}"'
    if start or stop is not None:
        request["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"

    def get() -> bytes:
        try:
            answer = client().get_object(**request)
        except Exception as error:
            if error_code(error) in ("PreconditionFailed", "412"):
                raise changed(uri) from None
            raise
        with answer["Body"] as body:
            check_size(uri, answer["ContentLength"], most)
            content = body.read()
        if len(content) != answer["ContentLength"]:
            raise ConnectionResetError("the body ended early")
        return content

    with _refusals(uri):
        content = patiently(get, uri, refresh)
    _last_read[bucket] = key
    return content


@contextmanager
def _refusals(uri: str) -> Iterator[None]:
    """A refusal becomes an `ObjectError` if another object of the bucket can be read."""
    try:
        yield
    except RefusedError as refused:
        if not _others_readable(*split(uri)):
            raise
        what = "access denied" if refused.code in DENIED else "storage refuses this object"
        raise ObjectError.of(uri, f"cannot be read: {what} ({refused.code})") from None


def _others_readable(bucket: str, key: str) -> bool:
    """Whether the last object that was read, or a neighbour of `key`, can be read now."""
    prefix = f"{folder}/" if (folder := key.rpartition("/")[0]) else ""
    others = [_last_read[bucket]] if bucket in _last_read else []
    with suppress(*STORAGE_ERRORS):
        page = client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=2 * NEIGHBOURS)
        others += [entry["Key"] for entry in page.get("Contents", []) if entry["Size"]]
    for other in [other for other in others if other != key][:NEIGHBOURS]:
        with suppress(*STORAGE_ERRORS):
            client().get_object(Bucket=bucket, Key=other, Range="bytes=0-0")["Body"].close()
            return True
    return False


def replace(uri: str, content: bytes, before: StoredObject | None) -> bool:
    """Replace the object `before` (None: there was no object).

    Returns False, without writing, if the object has changed since.
    """
    bucket, key = split(uri)
    condition = {"IfMatch": f'"{before.etag}"'} if before else {"IfNoneMatch": "*"}

    def put() -> bool:
        try:
            client().put_object(Bucket=bucket, Key=key, Body=content, **condition)
        except ClientError as error:
            code = error_code(error)
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return False
            if before and code in MISSING:
                return False
            raise
        return True

    return patiently(put, uri, refresh)


def remove(uri: str) -> None:
    """Remove an object; S3 does not tell whether there was one."""
    bucket, key = split(uri)
    patiently(lambda: client().delete_object(Bucket=bucket, Key=key), uri, refresh)


def changed(uri: str) -> ChangedError:
    return ChangedError(
        f"{uri} has changed since it was planned; go on with its new content with "
        "--accept-changes, or score the changed archive to another output"
    )


class Stream(io.RawIOBase):
    """An object as a seekable stream.

    Each read is one conditional range request and is retried on its own, so an error late in a
    long stream does not restart it.
    """

    def __init__(self, entry: StoredObject) -> None:
        self.entry = entry
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.entry.size}
        self.position = max(0, base[whence] + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        stop = min(self.position + len(buffer), self.entry.size)
        if stop <= self.position:
            return 0
        content = read(self.entry.uri, self.entry.etag, self.position, stop)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)
