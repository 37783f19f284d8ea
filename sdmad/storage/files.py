"""One way to read, list and write, for local paths and `s3://` URIs alike.

Reads and listings of S3 are in `s3`, everything else is fsspec's (s3fs). An S3-compatible endpoint
comes from `AWS_ENDPOINT_URL`, credentials from the standard chain. Listings are never cached: two
listings of a bucket may differ. Faults that pass are tried again (`retries`); what is raised is
`FileNotFoundError` or a `UserError`.
"""

import io
import os
import socket
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
from sdmad.storage import s3
from sdmad.storage.objects import StoredObject
from sdmad.storage.retries import ADAPTIVE, patiently

LOCK_SECONDS = 60


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it."""
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def folder(uri: str) -> str:
    """The prefix that a URI stands in."""
    return uri.rstrip("/").rpartition("/")[0]


def relative(uri: str, base: str) -> str:
    """`uri` as seen from `base`: below it, else below its folder (`base` is one object then: a
    shard, a manifest), else all of it."""
    for prefix in (base.rstrip("/") + "/", folder(base) + "/"):
        if uri.startswith(prefix):
            return uri.removeprefix(prefix)
    return uri


def located(name: str, base: str, base_is_object: bool) -> str:
    """The URI that `relative` made `name` of."""
    if "://" in name or name.startswith("/"):
        return name
    return join(folder(base) if base_is_object else base, name)


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
        "s3",
        use_listings_cache=False,
        config_kwargs={"retries": ADAPTIVE, "read_timeout": s3.READ_SECONDS},
    )


@cache
def _local_files() -> AbstractFileSystem:
    return fsspec.filesystem("file")


def _refresh() -> None:
    """Take S3 credentials from their source again at the next request."""
    type(_s3_files()).clear_instance_cache()
    _s3_files.cache_clear()


def files(uri: str) -> AbstractFileSystem:
    """The fsspec file system that a URI lives on."""
    return _s3_files() if is_s3(uri) else _local_files()


def open_read(
    uri: str, block_size: int = 1 << 20, planned: StoredObject | None = None
) -> IO[bytes]:
    """Open for reading and seeking; reads ahead by `block_size` bytes, never holds all of it.

    With `planned` what is read is that object and no other: raises `ChangedError` otherwise.
    """
    if is_s3(uri):
        return io.BufferedReader(s3.Stream(planned or s3.describe(uri)), block_size)
    stream = patiently(lambda: Path(uri).open("rb"), uri)  # noqa: SIM115 - the caller closes it
    if planned and _describe_local(uri, os.fstat(stream.fileno())) != planned:
        stream.close()
        raise s3.changed(uri)
    return stream


def read_bytes(uri: str, planned: StoredObject | None = None) -> bytes:
    """The whole object; `ChangedError` when it is not the `planned` one."""
    if is_s3(uri):
        return s3.read(uri, planned.etag if planned else "")

    def read() -> bytes:
        with open_read(uri, planned=planned) as stream:
            return stream.read()

    return patiently(read, uri)


def describe(uri: str) -> StoredObject:
    """Size and ETag of an object; `FileNotFoundError` when it does not exist."""
    if is_s3(uri):
        return s3.describe(uri)
    return patiently(lambda: _describe_local(uri, Path(uri).stat()), uri)


def _describe_local(uri: str, status: os.stat_result) -> StoredObject:
    return StoredObject(uri, status.st_size, f"{status.st_mtime_ns:x}")


def exists(uri: str) -> bool:
    """Whether there is an object or file; `UserError` when storage refuses to say."""
    try:
        describe(uri)
    except FileNotFoundError:
        return False
    return True


def is_object(uri: str) -> bool:
    """Whether a URI names one object and not a prefix."""
    return bool(s3.split(uri)[1]) and exists(uri) if is_s3(uri) else Path(uri).is_file()


def read_file(uri: str, what: str) -> bytes:
    """The content of a file that the user named; `what` names it for people.

    Raises `UserError` when it is missing, a folder, or may not be read.
    """
    try:
        return read_bytes(uri)
    except FileNotFoundError:
        raise UserError(f"there is no {what} {uri}; give the path of a file") from None


def write_bytes(uri: str, content: bytes) -> None:
    """Write atomically: a reader sees the old object, or all of the new one."""
    if is_s3(uri):
        patiently(lambda: files(uri).pipe_file(uri, content), uri, _refresh)
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


def replace(uri: str, content: bytes, before: StoredObject | None) -> bool:
    """Write in place of what `describe` said (None: of nothing); False when another writer was
    faster, and nothing is written then."""
    if is_s3(uri):
        return s3.replace(uri, content, before)
    target = Path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock", timeout=LOCK_SECONDS):
        now = describe(uri) if target.exists() else None
        if now != before:
            return False
        write_bytes(uri, content)
        return True


def list_objects(uri: str) -> Iterator[StoredObject]:
    """Every object below a prefix in the order of keys; the object itself when `uri` is one.

    Hidden local files (a leading dot) are left out. Raises `UserError` when the bucket does not
    exist or may not be listed.
    """
    yield from (s3.list_objects(uri) if is_s3(uri) else _list_local(uri))


def _list_local(uri: str) -> Iterator[StoredObject]:
    root = Path(uri)
    paths = [root] if root.is_file() else sorted(root.rglob("*"))
    for path in paths:
        below = path.relative_to(root).parts if path != root else ()
        if any(part.startswith(".") for part in below) or not path.is_file():
            continue
        yield _describe_local(str(path), path.stat())


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
        s3.check_bucket(uri)
        return
    try:
        Path(uri).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {uri}: {error.strerror}") from error
    if not os.access(uri, os.W_OK):
        raise UserError(f"cannot write to {uri}: permission denied")


def size(uri: str) -> int:
    """Bytes of an object; `FileNotFoundError` when it does not exist."""
    return describe(uri).size
