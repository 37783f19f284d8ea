"""What a listing says of one object."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object or file of a listing; `etag` changes when the content does."""

    uri: str
    size: int
    etag: str
