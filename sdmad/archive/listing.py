"""List the objects of an archive: those below a prefix, a single one, or those of a manifest.

A manifest is a CSV or Parquet file with a column `uri` and one row per object (image or shard).
Relative URIs start at the manifest's folder. If all objects are in S3 and there are columns `size`
and `etag` (as in an S3 inventory), their values are used. Otherwise storage is asked for each
object.
"""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.archive.limits import DAMAGE
from sdmad.errors import UserError
from sdmad.storage import StoredObject

MANIFEST_SUFFIXES = (".csv", ".parquet")


def list_archive(archive: str) -> Iterator[StoredObject]:
    """Every object of an archive; those of a manifest in its order, without duplicates.

    Raises `UserError` if storage denies access, or if a CSV file is not a manifest.
    """
    if archive.lower().endswith(MANIFEST_SUFFIXES) and storage.is_object(archive):
        table = _read_manifest(archive)
        if table is not None:
            yield from _objects(table, archive)
            return
    yield from storage.list_objects(archive)


def _read_manifest(archive: str) -> pd.DataFrame | None:
    """The table of a manifest; None for a Parquet file without a column `uri`, which is a shard."""
    if archive.lower().endswith(".parquet"):
        try:
            with storage.open_read(archive) as stream:
                file = pq.ParquetFile(stream)
                if "uri" not in file.schema_arrow.names:
                    return None
                wanted = [c for c in ("uri", "size", "etag") if c in file.schema_arrow.names]
                return file.read(columns=wanted, use_threads=False).to_pandas()
        except (OSError, *DAMAGE):
            return None
    try:
        content = io.BytesIO(storage.read_file(archive, "manifest"))
        table = pd.read_csv(content, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise UserError(f"the manifest {archive} cannot be read: {error}") from None
    if "uri" not in table:
        raise UserError(
            f"the manifest {archive} has no column 'uri'; it has {', '.join(table.columns)}"
        )
    return table


def _objects(table: pd.DataFrame, archive: str) -> Iterator[StoredObject]:
    table = table[table["uri"].astype(bool)].drop_duplicates("uri")
    uris = [_absolute(str(uri), archive) for uri in table["uri"]]
    if {"size", "etag"} <= set(table.columns) and all(map(storage.is_s3, uris)):
        sizes = pd.to_numeric(table["size"], errors="coerce").fillna(0).astype(int)
        etags = table["etag"].astype(str).str.strip('"')
        yield from map(StoredObject, uris, sizes.tolist(), etags.tolist())
        return
    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(_described, uris)


def _absolute(uri: str, archive: str) -> str:
    return (
        uri if "://" in uri or uri.startswith("/") else storage.join(storage.folder(archive), uri)
    )


def _described(uri: str) -> StoredObject:
    """A missing object stays in the archive, so that it gets a row in the failures table."""
    try:
        return storage.describe(uri)
    except FileNotFoundError:
        return StoredObject(uri, 0, "")
