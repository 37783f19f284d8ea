"""List the objects of an archive: those below a prefix, a single one, or those of a manifest.

A manifest is a CSV or Parquet file with a column `uri` and one row per object (image or shard).
Relative URIs start at the manifest's folder. If there are columns `size` (in bytes) and `etag`, as
in an S3 inventory, they are used for loose objects in S3. For shards, local files and rows in which
one of them is empty, storage is asked.
"""

import csv
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import pyarrow.parquet as pq

from sdmad import storage
from sdmad.archive import naming, parquets
from sdmad.archive.limits import DAMAGE
from sdmad.errors import UserError
from sdmad.storage import ObjectError, StoredObject

MANIFEST_SUFFIXES = (".csv", ".parquet")
COLUMNS = ("uri", "size", "etag")
_WHOLE_NUMBER = re.compile(r"([0-9]+)(\.0*)?")
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class _Line:
    """One row of a manifest; `number` counts the header as row 1."""

    number: int
    uri: str
    size: str
    etag: str


def list_archive(archive: str) -> Iterator[StoredObject]:
    """Every object of an archive; those of a manifest in its order, without duplicates.

    Raises `UserError` if storage denies access, if a CSV file is not a manifest, or with the first
    row of a manifest that is wrong.
    """
    if archive.lower().endswith(MANIFEST_SUFFIXES) and storage.is_object(archive):
        lines = _read_manifest(archive)
        if lines is not None:
            yield from _objects(lines, archive)
            return
    yield from storage.list_objects(archive)


def _read_manifest(archive: str) -> list[_Line] | None:
    """The rows of a manifest; None for a Parquet file that is a shard."""
    if not archive.lower().endswith(".parquet"):
        return _read_csv(archive)
    try:
        with storage.open_read(archive) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            if "uri" not in schema.names or parquets.is_shard(schema):
                return None
            wanted = [name for name in COLUMNS if name in schema.names]
            table = file.read(columns=wanted, use_threads=False).to_pydict()
    except (OSError, *DAMAGE):
        return None
    columns = [table.get(name) or [None] * len(table["uri"]) for name in COLUMNS]
    rows = zip(*columns, strict=True)
    return [_Line(k, *map(_text, row)) for k, row in enumerate(rows, start=2)]


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    missing = value is None or value != value
    return "" if missing else str(value)


def _read_csv(archive: str) -> list[_Line]:
    content = storage.read_file(archive, "manifest")
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        if "uri" not in header:
            raise UserError(
                f"the manifest {archive} has no column 'uri'; it has {', '.join(header)}"
            )
        position = {name: header.index(name) for name in COLUMNS if name in header}
        lines = []
        for number, fields in enumerate(reader, start=2):
            if fields and len(fields) != len(header):
                raise UserError(
                    f"the manifest {archive}, row {number}: it has {len(fields)} fields, and the "
                    f"header has {len(header)}; quote a URI that contains a comma"
                )
            if fields:
                values = [fields[position[c]] if c in position else "" for c in COLUMNS]
                lines.append(_Line(number, *values))
    except (ValueError, csv.Error) as error:
        raise UserError(f"the manifest {archive} cannot be read: {error}") from None
    return lines


def _objects(lines: list[_Line], archive: str) -> Iterator[StoredObject]:
    rows: dict[str, StoredObject | None] = {}
    etags: dict[str, str] = {}
    for line in lines:
        uri, size, etag = _absolute(line, archive), _size(line, archive), line.etag.strip(' "')
        if uri not in rows:
            shard = naming.shard_kind(uri)
            known = storage.is_s3(uri) and size is not None and etag and not shard
            rows[uri] = StoredObject(uri, size or 0, etag) if known else None
            if shard and etag and storage.is_s3(uri):
                etags[uri] = etag
    entries = iter(rows.items())
    with ThreadPoolExecutor(16) as pool:
        while group := list(islice(entries, ROWS_AT_ONCE)):
            asked = pool.map(_described, [uri for uri, entry in group if entry is None])
            for uri, entry in group:
                entry = entry or next(asked)
                if entry.etag and etags.get(uri, entry.etag) != entry.etag:
                    raise UserError(
                        f"{uri} has changed since the manifest {archive} was written: its ETag is "
                        f"{entry.etag}; write the manifest again"
                    )
                yield entry


def _size(line: _Line, archive: str) -> int | None:
    """The size of an object; None if its field is empty."""
    text = line.size.strip()
    number = _WHOLE_NUMBER.fullmatch(text)
    if text and not number:
        raise UserError(
            f"the manifest {archive}, row {line.number}: the size is {text!r}; write the number of "
            "bytes in digits, such as 10240, or leave the field empty"
        )
    return int(number[1]) if number else None


def _absolute(line: _Line, archive: str) -> str:
    uri = line.uri
    if not uri.strip():
        raise UserError(f"the manifest {archive}, row {line.number}: the uri is empty")
    if "://" in uri and not storage.is_s3(uri):
        try:
            return storage.resolve(uri)
        except UserError as error:
            raise UserError(f"the manifest {archive}, row {line.number}: {error}") from None
    if storage.is_s3(uri):
        return uri
    if not uri.startswith("/"):
        uri = storage.join(storage.folder(archive), uri.removeprefix("./"))
    # A doubled slash means nothing in a local path; in S3 it is a folder without a name.
    return uri if storage.is_s3(uri) else re.sub("/+", "/", uri)


def _described(uri: str) -> StoredObject:
    """An object that cannot be found stays in the archive: reading it gives the reason."""
    try:
        return storage.describe(uri)
    except (FileNotFoundError, ObjectError):
        return StoredObject(uri, 0, "")
