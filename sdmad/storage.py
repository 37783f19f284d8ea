"""One way to read, list and write, for local paths and `s3://` URIs alike.

fsspec (s3fs for S3) does the work. An S3-compatible endpoint comes from `AWS_ENDPOINT_URL`,
credentials from the standard chain. Listings are never cached: two listings of a bucket may differ.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import boto3
import fsspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from fsspec import AbstractFileSystem

from sdmad.errors import UserError

STORAGE_ERRORS = (OSError, BotoCoreError, ClientError)
RETRIES = Config(retries={"mode": "adaptive", "max_attempts": 8})
logging.getLogger("botocore").setLevel(logging.ERROR)


@dataclass(frozen=True)
class StoredObject:
    """One object or file of a listing; `etag` changes when the content does."""

    uri: str
    size: int
    etag: str


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it."""
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def relative(uri: str, base: str) -> str:
    """`uri` as seen from the prefix `base`, or its last part when it is `base` itself."""
    prefix = base.rstrip("/") + "/"
    return uri.removeprefix(prefix) if uri.startswith(prefix) else name(uri)


def resolve(uri: str) -> str:
    """The absolute form of a URI, so that jobs on other nodes and directories mean the same.

    Raises `UserError` for schemes other than `s3://` and `file://`.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme == "s3":
        return uri.rstrip("/")
    if scheme in ("", "file"):
        return str(Path(uri.removeprefix("file://")).expanduser().resolve())
    raise UserError(f"{uri}: the scheme {scheme}:// is not supported; use a local path or s3://")


@cache
def _s3_files() -> AbstractFileSystem:
    return fsspec.filesystem(
        "s3", use_listings_cache=False, config_kwargs={"retries": {"mode": "adaptive"}}
    )


@cache
def _local_files() -> AbstractFileSystem:
    return fsspec.filesystem("file")


def files(uri: str) -> AbstractFileSystem:
    """The fsspec file system that a URI lives on."""
    return _s3_files() if is_s3(uri) else _local_files()


def open_read(uri: str, block_size: int = 1 << 20) -> IO[bytes]:
    """Open for reading and seeking; reads ahead by `block_size` bytes, never holds all of it."""
    if is_s3(uri):
        return files(uri).open(uri, "rb", block_size=block_size, cache_type="readahead")
    return Path(uri).open("rb")


def read_bytes(uri: str) -> bytes:
    return files(uri).cat_file(uri)


def exists(uri: str) -> bool:
    """Whether there is an object or file; `UserError` when storage refuses to say."""
    try:
        return bool(files(uri).exists(uri))
    except STORAGE_ERRORS as error:
        raise storage_error(uri, error) from error


def read_file(uri: str, what: str) -> bytes:
    """The content of a file that the user named; `what` names it for people.

    Raises `UserError` when it is missing, a folder, or may not be read.
    """
    try:
        return read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no {what} {uri}; give the path of a file") from None
    except STORAGE_ERRORS as error:
        raise storage_error(uri, error) from error


def write_bytes(uri: str, content: bytes) -> None:
    """Write atomically: a reader sees the old object, or all of the new one."""
    if is_s3(uri):
        files(uri).pipe_file(uri, content)
        return
    target = Path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(scratch).chmod(0o644)
        Path(scratch).replace(target)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def list_objects(uri: str) -> Iterator[StoredObject]:
    """Every object below a prefix in the order of keys; the object itself when `uri` is one.

    Hidden local files (a leading dot) are left out. Raises `UserError` when the bucket does not
    exist or may not be listed.
    """
    yield from (_list_s3(uri) if is_s3(uri) else _list_local(uri))


def _list_s3(uri: str) -> Iterator[StoredObject]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        pages = boto3.client("s3", config=RETRIES).get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=key):
            for entry in page.get("Contents", []):
                below = entry["Key"] == key or not key or entry["Key"].startswith(f"{key}/")
                if below and not entry["Key"].endswith("/"):
                    etag = entry["ETag"].strip('"')
                    yield StoredObject(f"s3://{bucket}/{entry['Key']}", entry["Size"], etag)
    except (ClientError, BotoCoreError) as error:
        raise storage_error(uri, error) from error


def _list_local(uri: str) -> Iterator[StoredObject]:
    root = Path(uri)
    paths = [root] if root.is_file() else sorted(root.rglob("*"))
    for path in paths:
        below = path.relative_to(root).parts if path != root else ()
        if any(part.startswith(".") for part in below) or not path.is_file():
            continue
        status = path.stat()
        yield StoredObject(str(path), status.st_size, f"{status.st_mtime_ns:x}")


def check_readable(uri: str, what: str) -> None:
    """Raise `UserError` unless something stands at or below `uri`; `what` names it for people."""
    if next(iter(list_objects(uri)), None) is None:
        raise UserError(f"there is no {what} at {uri}; check the path or the prefix")


def check_visible(base: str) -> None:
    """Raise `UserError` when a local archive is not on this machine at all (another node)."""
    if not is_s3(base) and not Path(base).exists():
        raise UserError(
            f"{base} is not there on {socket.gethostname()}; on a cluster every node must see the "
            "archive: use s3:// or a shared file system"
        )


def check_writable(uri: str) -> None:
    """Raise `UserError` when nothing can be written below `uri`."""
    if is_s3(uri):
        bucket = uri.removeprefix("s3://").partition("/")[0]
        try:
            boto3.client("s3", config=RETRIES).head_bucket(Bucket=bucket)
        except (ClientError, BotoCoreError) as error:
            raise storage_error(uri, error) from error
        return
    try:
        Path(uri).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {uri}: {error.strerror}") from error
    if not os.access(uri, os.W_OK):
        raise UserError(f"cannot write to {uri}: permission denied")


def storage_error(uri: str, error: Exception) -> UserError:
    """What a refusal of S3 means to the user."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if isinstance(error, PermissionError):
        return UserError(f"{uri}: access denied; check credentials, their age, and permissions")
    if isinstance(error, NoCredentialsError):
        return UserError(
            f"{uri}: there are no credentials; set AWS_PROFILE or give the node a role"
        )
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code in ("NoSuchBucket", "404"):
        return UserError(
            f"{uri}: the bucket {bucket!r} does not exist; check its name and AWS_ENDPOINT_URL"
        )
    if code in ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return UserError(f"{uri}: access denied ({code}); check credentials and bucket policy")
    return UserError(
        f"{uri}: storage cannot be reached ({code or type(error).__name__}); "
        "check the network and AWS_ENDPOINT_URL, then give the same command again"
    )


def size(uri: str) -> int:
    """Bytes of an object; `FileNotFoundError` when it does not exist."""
    return int(files(uri).size(uri))
