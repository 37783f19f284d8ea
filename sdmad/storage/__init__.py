"""Local files and S3 objects through one interface, with retries.

    from sdmad import storage
    for entry in storage.list_objects("s3://bucket/archive"):
        storage.read_bytes(entry.uri, planned=entry)

`files` has the functions, `local` lists folders, `s3` calls boto3, and `retries` decides which
errors are retried. `names` turns names of local files into text.
`parquet` and `run_record` read and write the two formats that jobs share, `fit_files` lists fits.
"""

from sdmad.storage.files import (
    check_readable,
    check_visible,
    check_writable,
    describe,
    exists,
    folder,
    is_object,
    is_s3,
    join,
    list_objects,
    located,
    name,
    open_read,
    read_bytes,
    read_file,
    relative,
    remove,
    replace,
    resolve,
    size,
    write_bytes,
)
from sdmad.storage.names import clean, escaped
from sdmad.storage.objects import StoredObject
from sdmad.storage.retries import ChangedError, ObjectError, storage_error

__all__ = [
    "ChangedError",
    "ObjectError",
    "StoredObject",
    "check_readable",
    "check_visible",
    "check_writable",
    "clean",
    "describe",
    "escaped",
    "exists",
    "folder",
    "is_object",
    "is_s3",
    "join",
    "list_objects",
    "located",
    "name",
    "open_read",
    "read_bytes",
    "read_file",
    "relative",
    "remove",
    "replace",
    "resolve",
    "size",
    "storage_error",
    "write_bytes",
]
