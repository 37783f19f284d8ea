"""List everything in an archive, also what is no image; for verification.

It shares no code with `sdmad.archive.listing` and `storage.list_objects`: S3 is asked through the
other listing call (`ListObjects`), folders are walked here, and manifests are read without pandas.
"""

import csv
import io
import os
import re
import stat
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.errors import UserError
from sdmad.scoring.census import parquet
from sdmad.storage import StoredObject
from sdmad.storage import s3 as s3_access
from sdmad.storage.names import clean, escaped, is_possible, local_path
from sdmad.storage.retries import patiently

# In place of a size that is not known, such as that of a manifest's object.
UNKNOWN = -1


def list_all(archive: str) -> Iterator[tuple[StoredObject, str]]:
    """Every object of an archive, and why it cannot be an image (empty: it may be one).

    Raises `UserError` if the archive cannot be listed.
    """
    if archive.lower().endswith((".csv", ".parquet")) and storage.is_object(archive):
        uris = _manifest(archive)
        if uris is not None:
            yield from ((StoredObject(uri, UNKNOWN, ""), "") for uri in dict.fromkeys(uris))
            return
    yield from _s3(archive) if storage.is_s3(archive) else _local(archive)


def _manifest(archive: str) -> list[str] | None:
    """The URIs in a manifest; None for a Parquet file that is a shard."""
    found = _parquet_uris(archive) if archive.lower().endswith(".parquet") else _csv_uris(archive)
    folder = archive.rpartition("/")[0]
    return None if found is None else [_absolute(uri, folder) for uri in found if uri]


def _parquet_uris(archive: str) -> list[str] | None:
    """The column `uri`; None without one, or beside a column that stands for images."""
    try:
        with storage.open_read(archive) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            if "uri" not in schema.names or parquet.holds_images(schema):
                return None
            values = file.read(columns=["uri"], use_threads=False)["uri"].to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        return None
    return [
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        for value in values
        if value is not None
    ]


def _csv_uris(archive: str) -> list[str]:
    content = storage.read_file(archive, "manifest").decode("utf-8-sig", "replace")
    lines = csv.reader(io.StringIO(content, newline=""))
    header = [name.strip() for name in next(lines, [])]
    if "uri" not in header:
        raise UserError(f"the manifest {archive} has no column 'uri'")
    column = header.index("uri")
    return [line[column] for line in lines if len(line) > column]


def _absolute(uri: str, folder: str) -> str:
    if uri.startswith("file://"):
        if not is_possible(uri):
            return clean(uri.removeprefix("file://"))
        return clean(os.path.realpath(local_path(uri.removeprefix("file://")).expanduser()))
    if "://" not in uri and not uri.startswith("/"):
        uri = f"{folder}/{uri.removeprefix('./')}"
    return uri if "://" in uri else re.sub("/+", "/", uri)


def _s3(archive: str) -> Iterator[tuple[StoredObject, str]]:
    bucket, key = s3_access.split(archive)
    if key and storage.exists(archive):
        yield storage.describe(archive), ""
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Marker": ""}
    while True:
        page = patiently(
            lambda: s3_access.client().list_objects(**request), archive, s3_access.refresh
        )
        for entry in page.get("Contents", []):
            uri, size = f"s3://{bucket}/{entry['Key']}", entry["Size"]
            marker = entry["Key"].endswith("/") and size == 0
            yield StoredObject(uri, size, entry["ETag"].strip('"')), "folders" if marker else ""
        if not page.get("IsTruncated"):
            return
        request["Marker"] = page["Contents"][-1]["Key"]


def _local(archive: str) -> Iterator[tuple[StoredObject, str]]:
    """Files below a folder, through links too, but not through a folder inside itself."""
    root = local_path(archive)
    status = root.stat()
    if stat.S_ISREG(status.st_mode):
        yield _entry(archive, status), ""
        return
    # Folders to list: path, URI, whether it is hidden, device and inode of those that contain it.
    folders = [(root, archive.rstrip("/"), "", frozenset[tuple[int, int]]())]
    while folders:
        folder, place, hidden, above = folders.pop()
        try:
            here = folder.stat()
            paths = list(folder.iterdir())
        except FileNotFoundError:
            continue
        except OSError:
            yield StoredObject(f"{place}/", 0, ""), hidden
            continue
        within = above | {(here.st_dev, here.st_ino)}
        for path in paths:
            uri = f"{place}/{escaped(path.name)}"
            why = hidden or ("hidden files" if path.name.startswith(".") else "")
            try:
                status = path.stat()
            except OSError as error:
                # A broken link stays; a file that has just been deleted has left the archive.
                if path.is_symlink() or not isinstance(error, FileNotFoundError):
                    yield StoredObject(uri, 0, ""), why
                continue
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) not in within:
                    folders.append((path, uri, why, within))
            elif stat.S_ISREG(status.st_mode):
                yield _entry(uri, status), why
            else:
                yield StoredObject(uri, 0, ""), why or "pipes, sockets and devices"


def _entry(uri: str, status: os.stat_result) -> StoredObject:
    return StoredObject(uri, status.st_size, f"{status.st_mtime_ns:x}")
