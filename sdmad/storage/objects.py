"""One entry of a listing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object or file; `size` is in bytes.

    `etag` changes when the content does. For a local file it is the modification time.
    """

    uri: str
    size: int
    etag: str
