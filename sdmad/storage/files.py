"""Read, list and write local paths and `s3://` URIs.

S3 is read, listed and conditionally written through `s3`; other writes go through fsspec (s3fs).
The endpoint comes from `AWS_ENDPOINT_URL`, the credentials from boto3's standard chain. Listings
are not cached, so two listings of a bucket may differ. Temporary errors are retried (`retries`).
After that, functions raise `FileNotFoundError` or `UserError`.
"""

import errno
import io
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import fsspec
from filelock import FileLock
from fsspec import AbstractFileSystem

from sdmad.errors import UserError
from sdmad.storage import local, s3
from sdmad.storage.names import clean, is_possible, local_path
from sdmad.storage.objects import StoredObject
from sdmad.storage.retries import ADAPTIVE, check_size, patiently

LOCK_SECONDS = 60


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` appended."""
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def folder(uri: str) -> str:
    """The prefix or folder that contains a URI."""
    return uri.rstrip("/").rpartition("/")[0]


def relative(uri: str, base: str) -> str:
    """`uri` relative to `base`, or to the folder of `base` if that is an object (shard, manifest).

    A `uri` outside of both is returned as it is; a local path, for a `base` in S3, as `file://`.
    """
    for prefix in (base.rstrip("/") + "/", folder(base) + "/"):
        if uri.startswith(prefix):
            return uri.removeprefix(prefix)
    return f"file://{uri}" if uri.startswith("/") and is_s3(base) else uri


def located(name: str, base: str, base_is_object: bool) -> str:
    """The inverse of `relative`: the URI of `name`.

    In S3 a name may start with a slash: the key `prefix//x.png` has a folder without a name.
    """
    if name.startswith("file://"):
        return name.removeprefix("file://")
    if is_s3(name) or (name.startswith("/") and not is_s3(base)):
        return name
    return join(folder(base) if base_is_object else base, name)


def resolve(uri: str) -> str:
    """The absolute form of a URI, which does not depend on the working directory.

    Raises `UserError` for schemes other than `s3://` and `file://`.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme == "s3":
        return uri.rstrip("/")
    if scheme in ("", "file") and not is_possible(uri):
        return clean(uri.removeprefix("file://"))
    if scheme in ("", "file"):
        return clean(str(local_path(uri.removeprefix("file://")).expanduser().resolve()))
    raise UserError(f"{uri}: the scheme {scheme}:// is not supported; use a local path or s3://")


@cache
def _s3_files() -> AbstractFileSystem:
    return fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        config_kwargs={"retries": ADAPTIVE, "read_timeout": s3.READ_SECONDS},
    )


@cache
def _local_files() -> AbstractFileSystem:
    return fsspec.filesystem("file")


def _refresh() -> None:
    """Read the S3 credentials again before the next request."""
    type(_s3_files()).clear_instance_cache()
    _s3_files.cache_clear()


def files(uri: str) -> AbstractFileSystem:
    """The fsspec file system of a URI."""
    return _s3_files() if is_s3(uri) else _local_files()


def open_read(
    uri: str, block_size: int = 1 << 20, planned: StoredObject | None = None
) -> IO[bytes]:
    """Open for reading and seeking, with a buffer of `block_size` bytes.

    With `planned`, opening or reading raises `ChangedError` if the object has changed since.
    """
    if is_s3(uri):
        return io.BufferedReader(s3.Stream(planned or s3.describe(uri)), block_size)
    stream = patiently(lambda: local_path(uri).open("rb"), uri)
    if planned and local.describe(uri, os.fstat(stream.fileno())) != planned:
        stream.close()
        raise s3.changed(uri)
    return stream


def read_bytes(uri: str, planned: StoredObject | None = None, most: int | None = None) -> bytes:
    """The whole object. Raises `ChangedError` if it is no longer the `planned` one.

    Raises `ObjectError` for an object of more than `most` bytes, without reading it.
    """
    if is_s3(uri):
        return s3.read(uri, planned.etag if planned else "", 0, None, most)

    def read() -> bytes:
        with open_read(uri, planned=planned) as stream:
            check_size(uri, os.fstat(stream.fileno()).st_size, most)
            return stream.read()

    return patiently(read, uri)


def describe(uri: str) -> StoredObject:
    """Size and ETag of an object. Raises `FileNotFoundError` if it does not exist."""
    if is_s3(uri):
        return s3.describe(uri)
    return patiently(lambda: local.describe(uri, local_path(uri).stat()), uri)


def exists(uri: str) -> bool:
    """Whether an object or file exists. Raises `UserError` if storage denies access."""
    try:
        describe(uri)
    except FileNotFoundError:
        return False
    return True


def is_object(uri: str) -> bool:
    """Whether a URI names a single object rather than a prefix."""
    if is_s3(uri):
        return bool(s3.split(uri)[1]) and exists(uri)
    return is_possible(uri) and local_path(uri).is_file()


def read_file(uri: str, what: str) -> bytes:
    """The content of a file that the user named; `what` is its kind, as in "label table".

    Raises `UserError` if it is missing, is a folder, or may not be read.
    """
    try:
        return read_bytes(uri)
    except FileNotFoundError:
        raise UserError(f"there is no {what} {uri}; give the path of a file") from None


def write_bytes(uri: str, content: bytes) -> None:
    """Write atomically: a reader sees either the old object or the complete new one."""
    if is_s3(uri):
        patiently(lambda: files(uri).pipe_file(uri, content), uri, _refresh)
        return
    target = local_path(uri)
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


def replace(uri: str, content: bytes, before: StoredObject | None) -> bool:
    """Replace the object that `describe` returned as `before` (None: there was no object).

    Returns False, without writing, if another writer has changed the object since.
    """
    if is_s3(uri):
        return s3.replace(uri, content, before)
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock", timeout=LOCK_SECONDS):
        now = describe(uri) if target.exists() else None
        if now != before:
            return False
        write_bytes(uri, content)
        return True


def remove(uri: str) -> None:
    """Remove an object or file. Nothing happens if there is none."""
    if is_s3(uri):
        s3.remove(uri)
        return
    patiently(lambda: Path(uri).unlink(missing_ok=True), uri)


def list_objects(uri: str) -> Iterator[StoredObject]:
    """Every object below a prefix, sorted by key; only the object itself if `uri` names one.

    `local.list_local` says what is listed of a local folder. Raises `UserError` if the bucket does
    not exist or may not be listed.
    """
    yield from (s3.list_objects(uri) if is_s3(uri) else local.list_local(uri))


def check_readable(uri: str, what: str) -> None:
    """Raise `UserError` if there is no object at or below `uri`; `what` is its kind."""
    if next(iter(list_objects(uri)), None) is None:
        raise UserError(f"there is no {what} at {uri}; check the path or the prefix")


def check_visible(base: str) -> None:
    """Raise `UserError` if a local archive does not exist on this node at all."""
    if not is_s3(base) and not local_path(base).exists():
        raise UserError(
            f"{base} does not exist on the node {socket.gethostname()}; every node must see the "
            "archive, so use s3:// or a shared file system"
        )


def check_writable(uri: str) -> None:
    """Raise `UserError` if nothing can be written below `uri`. Nothing is created.

    A folder that does not exist can be written if the nearest one above it can.
    """
    if is_s3(uri):
        s3.check_bucket(uri)
        return
    path = local_path(uri)
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise UserError(f"cannot write to {uri}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {uri}: permission denied")


def size(uri: str) -> int:
    """Size of an object in bytes. Raises `FileNotFoundError` if it does not exist."""
    return describe(uri).size
